"""Tracing a corpus into a store, the whole job: plan, record, shards; what is committed is skipped."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from moetrace.store.read.failed import failed_texts
from moetrace.tracer.runs.engines import own_engine
from moetrace.tracer.runs.prepare import prepare
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.settings import TraceSettings
from moetrace.tracer.runs.shards import Written, trace_shards

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.tracer.plan.plan import PlanSummary
    from moetrace.tracer.runs.engines import EngineOf


@dataclass(frozen=True)
class TraceResult:
    """What a trace did: shards and tokens written now, those that were there before, and the time it took.

    Of the shards that were written now, `set_aside` texts are not there because the run's filters leave nothing of
    them, `failed` because they could not be traced; `failed_before` are those of the run's other shards.
    """

    run: str
    plan: PlanSummary
    written_shards: int
    written_tokens: int
    skipped_shards: int
    seconds: float
    set_aside: int = 0
    failed: int = 0
    failed_before: int = 0


def trace(
    model: str,
    corpus: str,
    store: str | Path,
    *,
    run: str | None = None,
    revision: str | None = None,
    settings: TraceSettings | None = None,
    progress: TraceProgress | None = None,
    engine_of: EngineOf = own_engine,
) -> TraceResult:
    """Trace `corpus` through `model` into `store`; shards that the store has are not traced again.

    Texts that the engine fails on are set aside. Raises MoetraceError children: no such model or not a MoE, a bad
    corpus, a store with another run of this name, a capture that is not a routing trace, an engine that does not start,
    or fails on every text. Whatever is raised, shards committed before stay. `engine_of`: where the engine comes from,
    which is started only where a shard is left to trace.
    """
    progress = progress or TraceProgress()
    prepared = prepare(
        model, corpus, store, run=run, revision=revision, settings=settings or TraceSettings(), progress=progress
    )
    planned, summary = prepared.planned, prepared.planned.plan.summary()
    progress.planned(summary, prepared.skipped_tokens)
    started = monotonic()
    written = Written()
    if prepared.todo:
        written = trace_shards(
            prepared.todo,
            prepared.record,
            planned.plan.sizes(),
            prepared.storage,
            planned.facts,
            planned.settings,
            planned.generation,
            planned.token_filter,
            progress,
            engine_of,
        )
    if said := prepared.end_whole():
        progress.stage(said)
    name = prepared.record.run
    failed = failed_texts(prepared.storage, name)
    return TraceResult(
        name,
        summary,
        written.shards,
        written.tokens,
        summary.shards - written.shards,
        monotonic() - started,
        written.set_aside,
        written.failed,
        max(failed - written.failed, 0),
    )
