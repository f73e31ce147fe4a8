"""What writing a shard costs, stage by stage, in CPU time of one process. `make bench-store`.

Shards of the shapes that matter, routed so that experts follow the token, the text and the layer before as a trained
model's do, and, where the shared data are, a real trace of DeepSeek-V2-Lite that ESFT published; `--store` adds shards
of a store. Nanoseconds are of CPU time and a decision (one expert of one layer of one token), medians over the rounds;
`encode` has the hashing and the writing of files in it, `rest` is what no stage accounts for. `bytes` are those of
`routes` a decision; `peak MB` is memory above the shard itself: NumPy's by tracemalloc and the most Arrow ever held.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tarfile
import tempfile
import time
import tracemalloc
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import store.writer
from store import RunRecord, Shard, Store, StoreWriter
from store.files import HashedFile
from store.ranking import LayerRanking
from store.rollup import UsageRollup
from tests.stores import make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARED = Path(os.environ.get("MOETRACE_SHARED", Path(__file__).parents[3] / "shared"))
SHAPES = {"4K x 8 x 4": (4096, 8, 4, 32), "32K x 8 x 4": (32768, 8, 4, 32), "32K x 48 x 8": (32768, 48, 8, 128)}
STAGES = ("check", "order", "rank", "roll-up", "encode", "sync")
TEXT = 85  # tokens


def routed(tokens: int, layers: int, top_k: int, experts: int) -> tuple[RunRecord, Shard]:
    """Route random tokens, their ids after Zipf, by token, text and what the layer before had, with some noise."""
    rng = np.random.default_rng(0)
    token_ids = np.minimum(rng.zipf(1.3, tokens), 4000).astype(np.int32)
    starts = np.arange(0, tokens, TEXT)
    lengths = np.diff(np.append(starts, tokens)).astype(np.int32)
    text = np.repeat(np.arange(len(starts)), lengths)
    chosen = np.empty((layers, top_k, tokens), dtype=np.uint8)
    weights = np.empty((layers, top_k, tokens), dtype=np.float32)
    profiles = np.empty((layers, len(starts), experts), dtype=np.float32)
    kept = np.zeros((tokens, experts), dtype=np.float32)
    for layer in range(layers):
        taste = 1.6 * rng.standard_normal((4001, experts), dtype=np.float32)
        kept = 0.4 * kept + rng.standard_normal((tokens, experts), dtype=np.float32)
        logits = taste[token_ids] + 0.5 * rng.standard_normal((len(starts), experts), dtype=np.float32)[text]
        logits += 0.6 * kept
        best = np.argpartition(-logits, top_k - 1, axis=1)[:, :top_k]
        gates = np.exp(np.take_along_axis(logits, best, axis=1))
        probabilities = np.exp(logits)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        chosen[layer], weights[layer] = best.T, (gates / gates.sum(axis=1, keepdims=True)).T
        profiles[layer] = np.add.reduceat(probabilities, starts) / lengths[:, None]
    record = make_record(languages=("eng_Latn",), moe_layers=range(layers), num_experts=experts, top_k=top_k)
    return record, shard_of(token_ids, lengths, chosen, weights, profiles)


def shard_of(
    token_ids: np.ndarray, lengths: np.ndarray, experts: np.ndarray, weights: np.ndarray, profiles: np.ndarray | None
) -> Shard:
    """Return a shard of experts and weights [L, k, T] and profiles [L, S, E], in the memory order of a capture."""
    return Shard(
        lang="eng_Latn",
        number=0,
        seqs=np.arange(len(lengths), dtype=np.int32),
        text_ids=[str(number) for number in range(len(lengths))],
        lengths=lengths.astype(np.int32),
        truncated=np.zeros(len(lengths), dtype=bool),
        token_ids=token_ids.astype(np.int32),
        experts=experts.transpose(2, 0, 1),
        weights=weights.transpose(2, 0, 1),
        profiles=None if profiles is None else profiles.transpose(1, 0, 2),
    )


def published(archive: Path) -> tuple[RunRecord, Shard]:
    """Read an ESFT trace: 26 layers x 64 experts, top-6, weights of 4 decimals; no token ids, no profiles."""
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if (file := tar.extractfile(member)) and "expert_weights_" in member.name:
                halves = [line.split("\t\t") for line in file.read().decode().splitlines() if line.strip()]
                ids, gates = (
                    [np.array(half[side].split("\t"), dtype=np.float32).reshape(-1, 6) for half in halves]
                    for side in (0, 1)
                )
                lengths = np.array([len(text) for text in ids])
                found[int(member.name.split("_")[-1].split(".")[0])] = (
                    np.concatenate(ids).T.astype(np.uint8),
                    np.concatenate(gates).T,
                )
    experts, weights = (np.stack([found[layer][side] for layer in sorted(found)]) for side in (0, 1))
    record = make_record(
        languages=("eng_Latn",),
        moe_layers=sorted(found),
        num_experts=64,
        top_k=6,
        tables=("sequences", "tokens", "routes", "usage"),
    )
    return record, shard_of(np.zeros(experts.shape[2], dtype=np.int32), lengths, experts, weights, None)


def stored(path: Path, most: int) -> tuple[RunRecord, Shard]:
    """Put the first shards of a store's only run together again, up to `most` tokens; ranks in a random order."""
    opened = Store(path)
    record = opened.run()
    files = {name: opened.files(name) for name in ("sequences", "tokens", "routes", "profiles")}
    read = lambda name, number: pq.read_table(files[name][number].location, partitioning=None)  # noqa: E731
    parts: list[list[np.ndarray]] = []
    layers, top_k, total = len(record.moe_layers), record.top_k, 0
    for number in range(len(files["routes"])):
        tokens = read("tokens", number)
        count = len(tokens)
        if parts and total + count > most:
            break
        total += count
        at = np.lexsort((tokens["position"].to_numpy(), tokens["seq"].to_numpy()))
        routes = read("routes", number)
        grid = (layers, top_k, count)
        parts.append(
            [
                tokens["token_id"].to_numpy()[at],
                read("sequences", number)["tokens"].to_numpy(),
                routes["expert"].to_numpy().reshape(grid)[:, :, tokens["token"].to_numpy()[at]],
                routes["weight"].to_numpy().reshape(grid)[:, :, tokens["token"].to_numpy()[at]],
                read("profiles", number)["probability"].to_numpy().reshape(layers, -1, record.num_experts),
            ]
        )
    token_ids, lengths, experts, weights, profiles = (
        np.concatenate(column, axis=axis)
        for column, axis in zip(zip(*parts, strict=True), (0, 0, 2, 2, 1), strict=True)
    )
    mixed = np.random.default_rng(0).permuted(np.broadcast_to(np.arange(top_k)[:, None], experts.shape[1:]), axis=0)
    experts, weights = (np.take_along_axis(values, mixed[None], axis=1) for values in (experts, weights))
    record = make_record(
        languages=("eng_Latn",), moe_layers=record.moe_layers, num_experts=record.num_experts, top_k=top_k
    )
    return record, shard_of(token_ids, lengths, experts, weights, profiles)


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
                (store.writer, "check_shard", "check"),
                (store.writer, "token_order", "order"),
                (store.writer, "round_weights", "rank"),
                (LayerRanking, "rank", "rank"),
                (UsageRollup, "add_layer", "roll-up"),
                (pq.ParquetWriter, "write_table", "encode"),
                (HashedFile, "sync", "sync"),
                (store.writer, "sync_folder", "sync"),
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
def main(rounds: int, path: Path | None) -> None:
    """Print the table."""
    cases: dict[str, Callable[[], tuple[RunRecord, Shard]]] = {
        name: partial(routed, *shape) for name, shape in SHAPES.items()
    }
    if (archive := SHARED / "data" / "esft-trace" / "intent.tar.xz").is_file():
        cases["DeepSeek-V2-Lite"] = partial(published, archive)
    if path:
        cases["a shard of the store"] = partial(stored, path, 1)
        cases["32K tokens of the store"] = partial(stored, path, 32768)
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
        shape = " x ".join(map(str, shard.experts.shape))
        cells = [f"{figure:7.1f}" for figure in figures[:-2]] + [f"{figures[-2]:7.3f}", f"{figures[-1]:7.0f}"]
        print(f"| {name:<24} | {shape:<14} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
