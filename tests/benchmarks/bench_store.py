"""What writing a shard costs, what it takes on the disk, and how fast it is counted. `make bench-store`.

Shards of the shapes that matter, routed so that experts follow the token, the text and the layer before as a trained
model's do, and, where the shared data are, real traces of DeepSeek-V2-Lite that ESFT published. `--tables` picks:

- write: each stage in CPU time of one process; `--store` adds shards of a store. Nanoseconds are of CPU time and a
  decision (one expert of one layer of one token), medians over the rounds; `encode` has the hashing and the writing of
  files in it, `rest` is what no stage accounts for. `bytes` are those of `routes` a decision; `peak MB` is memory above
  the shard itself: NumPy's by tracemalloc and the most Arrow ever held.
- size, scan, formats: `routes_tables`; open: `open_table`.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
import tracemalloc
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.shard.ranking import LayerRanking
from moetrace.store.shard.rollup import UsageRollup
from moetrace.store.storage import local as local_module
from moetrace.store.write import encode as encode_module
from moetrace.store.write import writer as writer_module
from moetrace.store.write.files import HashedFile
from moetrace.store.write.writer import StoreWriter
from tests.benchmarks.open_table import print_opening
from tests.benchmarks.routes_tables import print_formats, print_scans, print_sizes
from tests.benchmarks.shards import published, routed, stored
from tests.support.paths import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moetrace.store.format.records import RunRecord
    from moetrace.store.shard.shard import Shard

SHAPES = {
    "4K x 8 x 4": (4096, 8, 4, 32),
    "32K x 8 x 4": (32768, 8, 4, 32),
    "32K x 48 x 8": (32768, 48, 8, 128),
    "64K x 48 x 8": (65536, 48, 8, 128),
}
WIDE = "64K x 48 x 8"
TABLES = ("write", "size", "scan", "formats", "open")
STAGES = ("check", "order", "rank", "roll-up", "encode", "sync")


class Clock:
    """Adds up the CPU time that the writer spends in its stages; each function belongs to one stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds[stage] += time.process_time() - start

        return run

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the functions of the stages while the block runs."""
        with ExitStack() as undo:
            for owner, name, stage in (
                (writer_module, "check_shard", "check"),
                (encode_module, "token_order", "order"),
                (encode_module, "round_weights", "rank"),
                (LayerRanking, "rank", "rank"),
                (UsageRollup, "add_layer", "roll-up"),
                (pq.ParquetWriter, "write_table", "encode"),
                (HashedFile, "sync", "sync"),
                (local_module, "sync_folder", "sync"),
            ):
                kept = getattr(owner, name)
                setattr(owner, name, self.timed(kept, stage))
                undo.callback(setattr, owner, name, kept)
            yield


def measured(record: RunRecord, shard: Shard, folder: Path, rounds: int) -> list[float]:
    """Return nanoseconds of CPU a decision of each stage, of the rest and of all; wall; bytes of routes; peak MB."""
    found: list[list[float]] = []
    decisions = shard.experts.size
    for number in range(rounds + 1):
        clock, writer = Clock(), StoreWriter(folder / "store", record)
        with clock.watching():
            cpu, wall = time.process_time(), time.perf_counter()
            commit = writer.write(shard)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        shutil.rmtree(folder / "store")
        if number:  # the first warms up
            stages = list(clock.seconds.values())
            found.append([seconds * 1e9 / decisions for seconds in (*stages, cpu - sum(stages), cpu, wall)])
    tracemalloc.start()
    arrow = pa.default_memory_pool().max_memory()
    StoreWriter(folder / "store", record).write(shard)
    peak = tracemalloc.get_traced_memory()[1] + max(arrow, pa.default_memory_pool().max_memory())
    tracemalloc.stop()
    shutil.rmtree(folder / "store")
    (routes,) = (file.bytes for file in commit.files if file.table == "routes")
    return [*(statistics.median(column) for column in zip(*found, strict=True)), routes / decisions, peak / 1e6]


@click.command()
@click.option("--rounds", default=9, show_default=True)
@click.option("--store", "path", type=click.Path(path_type=Path, exists=True), help="Also the shards of this store.")
@click.option(
    "--tables", multiple=True, type=click.Choice(TABLES), default=TABLES, help="Only this one; again for more."
)
def main(rounds: int, path: Path | None, tables: tuple[str, ...]) -> None:
    """Print the tables."""
    found = sorted((SHARED / "data" / "esft-trace").glob("*.tar.xz"))
    archives = {f"ESFT {archive.name.split('.')[0]}": archive for archive in found}
    wide = cache(partial(routed, *SHAPES[WIDE]))
    if "write" in tables:
        cases: dict[str, Callable[[], tuple[RunRecord, Shard]]] = {
            name: wide if name == WIDE else partial(routed, *shape) for name, shape in SHAPES.items()
        }
        cases |= {name: partial(published, archive) for name, archive in archives.items()}
        if path:
            cases["a shard of the store"] = partial(stored, path, 1)
            cases["32K tokens of the store"] = partial(stored, path, 32768)
        print_costs(cases, rounds)
    shards = {name: published(archive) for name, archive in archives.items()}
    if "size" in tables:
        print_sizes({**shards, WIDE: wide()}, {**dict.fromkeys(shards, ("f16",)), WIDE: ("f16", "bf16")})
    if "scan" in tables:
        print_scans({**shards, WIDE: wide()}, rounds)
    if "formats" in tables:
        print_formats(archives, shards, rounds)
    if "open" in tables:
        print_opening(2000, rounds)


def print_costs(cases: dict[str, Callable[[], tuple[RunRecord, Shard]]], rounds: int) -> None:
    """Print what writing costs, stage by stage."""
    print(f"{platform.machine()}, {os.cpu_count()} cores; ns of CPU a decision, f16 grid; medians of {rounds} rounds\n")
    titles = (*STAGES, "rest", "all", "wall", "bytes", "peak MB")
    print(f"| {'shard':<24} | {'shape':<14} | " + " | ".join(f"{title:>7}" for title in titles) + " |")
    print("|".join(["", "-" * 26, "-" * 16, *["-" * 8 + ":"] * len(titles), ""]))
    for name, case in cases.items():
        record, shard = case()
        record.settings["weight_precision"] = "f16"
        record.routing["normalized"] = False  # published weights are not
        with tempfile.TemporaryDirectory() as folder:
            figures = measured(record, shard, Path(folder), rounds)
        layers, top_k, count = shard.experts.shape
        shape = f"{count} x {layers} x {top_k}"
        cells = [f"{figure:7.1f}" for figure in figures[:-2]] + [f"{figures[-2]:7.3f}", f"{figures[-1]:7.0f}"]
        print(f"| {name:<24} | {shape:<14} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
