"""The third step of a trace: given shards, the record of their run and a store, trace them into it."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import sleep
from typing import TYPE_CHECKING

from moetrace.store.storage.claims import LivingClaims
from moetrace.store.write.writer import StoreWriter, open_or_create
from moetrace.tracer.runs.engines import RestartedEngine, own_engine
from moetrace.tracer.runs.outlet import DEFAULT_MEMORY, Outlet
from moetrace.tracer.runs.record import traced_record
from moetrace.tracer.runs.retry import HowTraced, Retries
from moetrace.tracer.steering.attach import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moetrace.store.format.plan_record import PlannedShards
    from moetrace.store.format.records import CommitRecord, RunRecord
    from moetrace.store.shard.shard import Shard
    from moetrace.store.storage.base import Storage
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.plan.shards import PlannedShard
    from moetrace.tracer.plan.token_filter import TokenFilter
    from moetrace.tracer.runs.engines import Engine, EngineOf
    from moetrace.tracer.runs.progress import TraceProgress
    from moetrace.tracer.runs.settings import TraceSettings


@dataclass
class Written:
    """What was traced here: shards and their tokens, less those left out.

    set_aside: texts of which a filter leaves nothing; failed: texts that could not be traced
    """

    shards: int = 0
    tokens: int = 0
    set_aside: int = 0
    failed: int = 0

    def add(self, other: Written) -> None:
        """Count what another process wrote, too."""
        self.shards += other.shards
        self.tokens += other.tokens
        self.set_aside += other.set_aside
        self.failed += other.failed


WAIT = 1.0  # seconds between looks at what other processes are tracing


def trace_shards(
    shards: Sequence[PlannedShard],
    record: RunRecord,
    plan: PlannedShards,
    storage: Storage,
    facts: ModelFacts,
    settings: TraceSettings,
    generation: Generation | None,
    token_filter: TokenFilter | None,
    progress: TraceProgress,
    engine_of: EngineOf = own_engine,
) -> Written:
    """Start an engine, trace shards until the store has them all, and return what was written here.

    `record` is the planned one (`record.planned_record`), `plan` the sizes of all of its shards; of `settings` only the
    engine's, the interventions, the weight precision and the memory count here. Texts that the engine fails on are set
    aside. Raises MoetraceError children: a place that cannot be written, an engine that does not start, or fails on
    everything, a store that has the run with another record, a capture that is not a routing trace. What was committed
    stays.
    """
    open_or_create(storage)  # what cannot be written should not cost an engine's start
    if LivingClaims(storage).of_run(record.run):
        # Others are at work, from the beginning on: begin elsewhere, and meet them at the end.
        first = random.randrange(len(shards))  # noqa: S311  no secret
        shards = [*shards[first:], *shards[:first]]
    progress.stage(f"starting the engine for {facts.id}")
    steering = settings.steering

    @contextmanager
    def started() -> Iterator[Engine]:
        with engine_of(facts, replace(settings.engine, steering=steering is not None)) as engine:
            for intervention in steering.interventions if steering else ():
                load(engine.llm, intervention)
            yield engine

    with RestartedEngine(started) as engines:
        progress.stage("tracing")
        traced = traced_record(record, engines.engine, settings.weight_precision)
        with StoreWriter(storage, traced, plan) as writer:
            return _trace_all(engines, writer, shards, generation, token_filter, settings, progress)


def _trace_all(
    engines: RestartedEngine,
    writer: StoreWriter,
    shards: Sequence[PlannedShard],
    generation: Generation | None,
    token_filter: TokenFilter | None,
    settings: TraceSettings,
    progress: TraceProgress,
) -> Written:
    """Trace shards until the store has them all, and return what was written here.

    Other processes may be tracing the same run: what one of them has claimed is left to it, and waited for, so that a
    trace that ends well is a whole one; it is traced here if that process dies.
    """
    written = Written()

    def captured(shard: Shard) -> None:
        failed = sum(text.kind == "failed" for text in shard.set_aside)
        written.failed += failed
        written.set_aside += len(shard.set_aside) - failed

    def committed(commit: CommitRecord) -> None:
        written.shards += 1
        written.tokens += commit.tokens
        progress.committed(commit)

    def outlet() -> Outlet:
        memory = settings.max_memory or DEFAULT_MEMORY
        background = not engines.engine.on_cpu
        return Outlet(writer, limit=memory, background=background, writers=settings.writers, committed=committed)

    how = HowTraced(generation, token_filter, settings.steering.digest if settings.steering else None)
    retries = Retries(engines, writer, how, outlet, progress, captured)
    left, said = list(shards), False
    while left:
        before = len(retries.taken)
        retries.trace(left)
        done = writer.committed()
        progress.advance(sum(shard.tokens for shard in left if shard.key in done - retries.taken))
        left = [shard for shard in left if shard.key not in done]
        if left and len(retries.taken) == before:
            if not said:
                progress.stage(f"waiting for {len(left)} shards that another process is tracing")
            said = True
            sleep(WAIT)
    writer.attempts.sweep(writer.committed())
    return written
