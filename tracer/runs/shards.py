"""The third step of a trace: given shards, the record of their run and a store, trace them into it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from time import sleep
from typing import TYPE_CHECKING

from moetrace.store.storage.claims import LivingClaims
from moetrace.store.write.writer import StoreWriter, open_or_create
from moetrace.tracer.runs.engines import own_engine
from moetrace.tracer.runs.outlet import DEFAULT_MEMORY, Outlet
from moetrace.tracer.runs.record import traced_record
from moetrace.tracer.steering.attach import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moetrace.store.format.plan_record import PlannedShards
    from moetrace.store.format.records import CommitRecord, RunRecord
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
    """What was traced here: shards and their tokens, less those left out, and texts of which nothing is left."""

    shards: int = 0
    tokens: int = 0
    set_aside: int = 0

    def add(self, other: Written) -> None:
        """Count what another process wrote, too."""
        self.shards += other.shards
        self.tokens += other.tokens
        self.set_aside += other.set_aside


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
    engine's, the interventions, the weight precision and the memory count here. Raises MoetraceError children: a place
    that cannot be written, an engine that does not start, a store that has the run with another record, a capture that
    is not a routing trace. What was committed stays.
    """
    open_or_create(storage)  # what cannot be written should not cost an engine's start
    if LivingClaims(storage).of_run(record.run):
        # Others are at work, from the beginning on: begin elsewhere, and meet them at the end.
        first = random.randrange(len(shards))  # noqa: S311  no secret
        shards = [*shards[first:], *shards[:first]]
    progress.stage(f"starting the engine for {facts.id}")
    steering = settings.steering
    with engine_of(facts, replace(settings.engine, steering=steering is not None)) as engine:
        for intervention in steering.interventions if steering else ():
            load(engine.llm, intervention)
        progress.stage("tracing")
        with StoreWriter(storage, traced_record(record, engine, settings.weight_precision), plan) as writer:
            return _trace_all(engine, writer, shards, generation, token_filter, settings, progress)


def _trace_all(
    engine: Engine,
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
    mine: list[PlannedShard] = []
    written = Written()

    def claimed(candidates: Sequence[PlannedShard]) -> Iterator[PlannedShard]:
        for shard in candidates:
            if writer.claim(shard.lang, shard.number):
                mine.append(shard)
                yield shard

    def committed(commit: CommitRecord) -> None:
        written.shards += 1
        written.tokens += commit.tokens
        progress.committed(commit)

    steered_by = settings.steering.digest if settings.steering else None
    memory = settings.max_memory or DEFAULT_MEMORY
    left, said = list(shards), False
    while left:
        before = len(mine)
        with Outlet(
            writer, limit=memory, background=not engine.on_cpu, writers=settings.writers, committed=committed
        ) as outlet:
            traced = engine.trace(claimed(left), progress.advance, generation, outlet, token_filter, steered_by)
            for shard in traced:
                written.set_aside += len(shard.set_aside)
                outlet.put(shard)
                del shard  # the engine goes on: nothing may hold the arrays once they are written
        done, own = writer.committed(), {shard.key for shard in mine}
        progress.advance(sum(shard.tokens for shard in left if shard.key in done - own))
        left = [shard for shard in left if shard.key not in done]
        if left and len(mine) == before:
            if not said:
                progress.stage(f"waiting for {len(left)} shards that another process is tracing")
            said = True
            sleep(WAIT)
    return written
