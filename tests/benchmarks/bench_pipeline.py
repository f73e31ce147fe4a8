"""What everything behind the model sustains: the synthetic engine, capture, writers, the store. `make bench-pipeline`.

The engine makes routing of 48 layers x 128 experts, top-8, up and is never waited for, so that whatever is slowest
behind it shows. Texts have 85 tokens, shards 32,768, memory of shards is 2 GiB; everything a trace writes is written. A
decision is one expert of one layer of one token; nanoseconds are of CPU time, by the thread's own clock:

- engine: making routing up, which a GPU would do; capture: putting steps together to shards (`tracer.worker.assembly`)
  and handing them over; write: checking, sorting, adding up, encoding, syncing and committing
- cores: CPU seconds a second over the whole run; writers alone: the same shards from memory, without an engine
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.engine import queue
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.engine.synthetic import SyntheticEngine
from moetrace.tracer.model.synthetic import synthetic_facts
from moetrace.tracer.plan.shards import PlannedShard
from moetrace.tracer.runs.outlet import Outlet
from moetrace.tracer.worker.assembly import PlannedShards
from tests.support.stores import make_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.store.format.records import RunRecord
    from moetrace.store.shard.shard import Shard

TEXT, SHARD = 85, 32768
CAPTURE = {PlannedShards: ("open", "add", "take"), queue.UnderWay: ("finish",)}


def planned(count: int) -> list[PlannedShard]:
    """Return shards of random texts, token ids after Zipf."""
    draw, texts = np.random.default_rng(0), SHARD // TEXT
    return [
        PlannedShard(
            "eng_Latn",
            number,
            np.arange(number * texts, (number + 1) * texts, dtype=np.int32),
            tuple(map(str, range(number * texts, (number + 1) * texts))),
            np.zeros(texts, dtype=bool),
            tuple(np.minimum(draw.zipf(1.3, (texts, TEXT)), 50_000).astype(np.int32)),
        )
        for number in range(count)
    ]


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Add up the CPU time of capture, and of writing, by the clocks of the threads that do it."""
    places = {name: (owner, name, "capture") for owner, names in CAPTURE.items() for name in names}
    places["write"] = (StoreWriter, "write", "write")
    originals = {key: getattr(owner, name) for key, (owner, name, _) in places.items()}

    def wrapped(key: str, stage: str) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return originals[key](*arguments, **options)
            finally:
                spent[stage] += time.thread_time() - began

        return run

    try:
        for key, (owner, name, stage) in places.items():
            setattr(owner, name, wrapped(key, stage))
        yield
    finally:
        for key, (owner, name, _) in places.items():
            setattr(owner, name, originals[key])


def pipeline(engine: SyntheticEngine, shards: list[PlannedShard], record: RunRecord, writers: int) -> dict[str, float]:
    """Trace shards into a new store; return seconds: `wall`, `cpu`, and of each stage."""
    spent: dict[str, float] = defaultdict(float)
    folder = Path(tempfile.mkdtemp(prefix="bench-pipeline-"))
    try:
        with timed(spent):
            wall, cpu = time.perf_counter(), time.process_time()
            with StoreWriter(folder / "store", record) as writer, Outlet(writer, writers=writers) as outlet:
                for shard in engine.trace(shards, memory=outlet):
                    outlet.put(shard)
            spent["wall"], spent["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        shutil.rmtree(folder)
    return spent


def writing(shards: list[Shard], record: RunRecord, writers: int) -> dict[str, float]:
    """Write captured shards into a new store; return `wall` and `cpu` seconds."""
    folder = Path(tempfile.mkdtemp(prefix="bench-pipeline-"))
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        with StoreWriter(folder / "store", record) as writer, Outlet(writer, limit=2**40, writers=writers) as outlet:
            for shard in shards:
                outlet.reserve(shard.key, 0, wait=False)
                outlet.put(shard)
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    finally:
        shutil.rmtree(folder)


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


@click.command()
@click.option("--shape", default="48x128x8", show_default=True)
@click.option("--shards", "count", default=8, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--writers", "ways", multiple=True, type=int, default=(1, 2, 4), show_default=True)
def main(shape: str, count: int, rounds: int, ways: tuple[int, ...]) -> None:
    facts, plan = synthetic_facts(shape), planned(count)
    engine = SyntheticEngine(facts, EngineSettings(synthetic=True))
    record = make_record(
        languages=("eng_Latn",), moe_layers=facts.moe_layers, num_experts=facts.num_experts, top_k=facts.top_k
    )
    decisions = sum(shard.tokens for shard in plan) * len(facts.moe_layers) * facts.top_k
    whole: dict[int, list[dict[str, float]]] = {way: [] for way in ways}
    alone: dict[int, list[dict[str, float]]] = {way: [] for way in ways}
    kept = list(engine.trace(plan[:4]))
    share = sum(shard.tokens for shard in plan[:4]) / sum(shard.tokens for shard in plan)
    for _ in range(rounds):
        for way in ways:
            whole[way].append(pipeline(engine, plan, record, way))
            alone[way].append(writing(kept, record, way))
    print("| writers | M decisions/s | cores | engine | capture | write | all | alone, M/s | alone, ns | x |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for way in ways:
        found, only = medians(whole[way]), medians(alone[way])
        ns = {name: 1e9 * seconds / decisions for name, seconds in found.items()}
        # What the engine's thread does is all that no writer does.
        engine_ns = ns["cpu"] - ns["capture"] - ns["write"]
        ratio = statistics.median(
            one["wall"] / other["wall"] for one, other in zip(alone[ways[0]], alone[way], strict=True)
        )
        print(
            f"| {way} | {decisions / found['wall'] / 1e6:.1f} | {found['cpu'] / found['wall']:.2f} | {engine_ns:.1f} "
            f"| {ns['capture']:.1f} | {ns['write']:.1f} | {ns['cpu']:.1f} "
            f"| {share * decisions / only['wall'] / 1e6:.1f} | {1e9 * only['cpu'] / (share * decisions):.1f} "
            f"| {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
