"""What `routes` takes and how fast it is counted: three tables of `make bench-store`."""

from __future__ import annotations

import pickle
import statistics
import tarfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import duckdb
import pyarrow.parquet as pq

from moetrace.analytics.database.connection import connect
from moetrace.store.format.weights import round_weights
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.benchmarks.order0 import order0_bytes
from tests.benchmarks.timing import median_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moetrace.store.format.records import RunRecord
    from moetrace.store.shard.shard import Shard

ROLL_UP = "select layer, expert, count(*), sum(weight) from {routes} group by all"


def print_sizes(shards: Mapping[str, tuple[RunRecord, Shard]], grids: Mapping[str, Sequence[str]]) -> None:
    """Print bytes a decision of `routes` and of its columns beside the order-0 bound of ids and weights."""
    print("\nBytes a decision of `routes` and its columns; bounds: tests/benchmarks/order0.py, mean of the layers\n")
    bounds = ("bound", "ratio", "bound, split", "ratio, split")
    _print_head("shard", "grid", "bytes", "expert", "weight", "others", *bounds)
    for name, (record, shard) in shards.items():
        for grid in grids[name]:
            with TemporaryDirectory() as folder:
                file = write_routes(record, shard, grid, Path(folder))
                size, columns = file.stat().st_size / shard.experts.size, _column_bytes(file)
            ids, weights = columns["expert"], columns["weight"]
            joint, split = _bound(record, shard, grid, split=False), _bound(record, shard, grid, split=True)
            figures = (size, ids, weights, size - ids - weights, joint, size / joint, split, size / split)
            _print_row(name, grid, *(f"{figure:.3f}" for figure in figures))


def print_scans(shards: Mapping[str, tuple[RunRecord, Shard]], rounds: int) -> None:
    """Print how fast one thread of DuckDB counts and sums `routes` by layer and expert, and what one layer takes."""
    print(f"\nRoll-up of `routes` by DuckDB, f16 grid, one thread, CPU time; medians of {rounds} rounds\n")
    _print_head("shard", "read as", "M decisions/s", "one layer / all", "aim: 2 / layers")
    for name, (record, shard) in shards.items():
        with TemporaryDirectory() as folder:
            file = write_routes(record, shard, "f16", Path(folder))
            one_thread = {"threads": 1}  # DuckDB works in the thread that asks: its CPU time is a core's
            readers = {
                "a store, verified": (connect(Path(folder), settings=one_thread), "routes"),
                "a file": (duckdb.connect(config=one_thread), f"'{file}'"),
            }
            for title, (connection, routes) in readers.items():
                every = ROLL_UP.format(routes=routes)
                one = ROLL_UP.format(routes=f"{routes} where layer = {record.moe_layers[len(record.moe_layers) // 2]}")
                seconds = _cpu_seconds(connection, (every, one), rounds)
                rate, share = shard.experts.size / seconds[0] / 1e6, seconds[1] / seconds[0]
                _print_row(name, title, f"{rate:.1f}", f"{share:.4f}", f"{2 / len(record.moe_layers):.4f}")


def print_formats(archives: Mapping[str, Path], shards: Mapping[str, tuple[RunRecord, Shard]], rounds: int) -> None:
    """Print size and time to the counts of (layer, expert) of ESFT's own text, a pickled Counter and a store."""
    print(f"\nThe same decisions in other formats, and wall time to their counts; medians of {rounds} rounds\n")
    _print_head("trace", "format", "bytes each", "ms to counts")
    for name, archive in archives.items():
        record, shard = shards[name]
        with TemporaryDirectory() as root:
            folder = Path(root)
            with tarfile.open(archive) as tar:
                tar.extractall(folder / "text", filter="data")
            texts = sorted((folder / "text").rglob("expert_weights_*.txt"))
            counts, pickled = counts_of_text(texts), folder / "counts.pickle"
            pickled.write_bytes(pickle.dumps(counts))
            routes = write_routes(record, shard, "f16", folder / "store")
            (usage,) = Store(folder / "store").files("usage")
            ways: dict[str, tuple[int, Callable[[], Counter[tuple[int, int]]]]] = {
                "text, read in Python": (sum(file.stat().st_size for file in texts), partial(counts_of_text, texts)),
                "pickled Counter": (
                    pickled.stat().st_size,
                    lambda pickled=pickled: pickle.loads(pickled.read_bytes()),  # noqa: S301  written above
                ),
            }
            connection = connect(folder / "store")
            for title, size, sql in (
                ("`routes`, SQL", routes.stat().st_size, "select layer, expert, count(*) from routes group by all"),
                (
                    "`usage`, SQL",
                    Path(usage.location).stat().st_size,
                    "select layer, expert, count from usage where count > 0",
                ),
            ):
                ways[title] = (size, partial(_counted, connection, sql))
            for title, (size, read) in ways.items():
                if read() != counts:
                    raise AssertionError(f"{name}: {title}: not the counts of the text")
                bytes_each = f"{size / shard.experts.size:.4f}"
                _print_row(name, title, bytes_each, f"{1e3 * median_seconds(read, rounds):.2f}")
            opening = 1e3 * median_seconds(partial(connect, folder / "store"), rounds)
            _print_row(name, "opening the store", "", f"{opening:.2f}")


def write_routes(record: RunRecord, shard: Shard, grid: str, folder: Path) -> Path:
    """Write the shard into a new store, its weights on this grid; return the file of its routes."""
    record.settings["weight_precision"] = grid
    record.routing["normalized"] = False  # published weights are not
    with StoreWriter(folder, record) as writer:
        writer.write(shard)
    (file,) = Store(folder).files("routes")
    return Path(file.location)


def counts_of_text(files: Sequence[Path]) -> Counter[tuple[int, int]]:
    """Count (layer, expert) in files of ESFT: a line is a text's ids, two tabs and their weights, token after token."""
    counts: Counter[tuple[int, int]] = Counter()
    for file in files:
        layer = int(file.stem.split("_")[-1])
        with file.open() as lines:
            for line in lines:
                counts.update((layer, int(expert)) for expert in line.split("\t\t")[0].split("\t"))
    return counts


def _counted(connection: duckdb.DuckDBPyConnection, sql: str) -> Counter[tuple[int, int]]:
    return Counter({(layer, expert): count for layer, expert, count in connection.execute(sql).fetchall()})


def _column_bytes(file: Path) -> dict[str, float]:
    """Return column -> compressed bytes a row."""
    metadata = pq.ParquetFile(file).metadata
    sizes: Counter[str] = Counter()
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            sizes[chunk.path_in_schema] += chunk.total_compressed_size
    return {name: size / metadata.num_rows for name, size in sizes.items()}


def _bound(record: RunRecord, shard: Shard, grid: str, *, split: bool) -> float:
    found = []
    for index in range(len(record.moe_layers)):
        weights = round_weights(shard.weights[index], grid)
        found.append(order0_bytes(shard.experts[index], weights, record.num_experts, split=split))
    return statistics.mean(found)


def _cpu_seconds(connection: duckdb.DuckDBPyConnection, queries: Sequence[str], rounds: int) -> list[float]:
    """Return each query's median CPU time; all in turn, so that what slows the machine down slows every one."""
    found: list[list[float]] = []
    for _ in range(rounds + 1):
        found.append([])
        for sql in queries:
            start = time.process_time()
            connection.execute(sql).fetchall()
            found[-1].append(time.process_time() - start)
    return [statistics.median(column) for column in zip(*found[1:], strict=True)]  # the first warms up


def _print_head(name: str, kind: str, *titles: str) -> None:
    _print_row(name, kind, *titles)
    print("|".join(["", "-" * 20, "-" * 22, *["-" * 16 + ":"] * len(titles), ""]))


def _print_row(name: str, kind: str, *cells: str) -> None:
    print(f"| {name:<18} | {kind:<20} | " + " | ".join(f"{cell:>15}" for cell in cells) + " |", flush=True)
