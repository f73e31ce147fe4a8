"""Tracing a corpus into a store, the whole job: plan, record, shards; what is committed is skipped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from moetrace.store.format.layout import checked_run
from moetrace.store.storage.open import open_storage
from moetrace.store.write.compact_finished import compact_finished
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.engine.settings import require_engine
from moetrace.tracer.runs.engines import own_engine
from moetrace.tracer.runs.planning import open_inputs, plan_trace
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.record import planned_record, resumed_record, stored_record
from moetrace.tracer.runs.settings import TraceSettings
from moetrace.tracer.runs.shards import Written, trace_shards

if TYPE_CHECKING:
    from moetrace.tracer.plan.plan import Plan
    from moetrace.tracer.runs.engines import EngineOf


@dataclass(frozen=True)
class TraceResult:
    """What a trace did: shards and tokens written now, those that were there before, and the time it took.

    `set_aside`: texts of the shards that were written now of which the run's filters leave nothing.
    """

    run: str
    plan: Plan
    written_shards: int
    written_tokens: int
    skipped_shards: int
    seconds: float
    set_aside: int = 0


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

    Raises MoetraceError children: no such model or not a MoE, a bad corpus, a store with another run of this name,
    a capture that is not a routing trace. Whatever is raised, shards committed before stay. `engine_of`: where the
    engine comes from, which is started only where a shard is left to trace.
    """
    settings = settings or TraceSettings()
    progress = progress or TraceProgress()
    require_engine()
    settings.check()
    inputs = open_inputs(model, corpus, settings, revision=revision, progress=progress)
    name = checked_run(run or default_run(model, corpus))
    storage = open_storage(store)
    stored = stored_record(storage, name)
    planned = plan_trace(inputs, settings, progress)
    plan, record = planned.plan, planned_record(name, planned)
    done: set[str] = set()
    if stored is not None:
        # Refuse, or find nothing to do, before an engine is started; what only the engine knows is checked after that.
        done = StoreWriter(storage, resumed_record(record, stored, planned.settings)).committed()
    todo = [shard for shard in plan.shards if shard.key not in done]
    progress.planned(plan, plan.tokens - sum(shard.tokens for shard in todo))
    started = monotonic()
    written = Written()
    if todo:
        written = trace_shards(
            todo,
            record,
            plan.sizes(),
            storage,
            planned.facts,
            planned.settings,
            planned.generation,
            planned.token_filter,
            progress,
            engine_of,
        )
    if said := compact_finished(storage, name):
        progress.stage(said)
    skipped = len(plan.shards) - written.shards
    return TraceResult(name, plan, written.shards, written.tokens, skipped, monotonic() - started, written.set_aside)


def default_run(model: str, corpus: str) -> str:
    """Return the name of a run that nobody named: the model's and the corpus's."""
    names = (Path(model.rstrip("/")).name, Path(corpus.removeprefix("hf:").split(":")[0].rstrip("/")).stem)
    return "-".join(re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") for name in names)[:128]
