"""What comes before an engine: a plan, the record of its run, and which shards the store lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.format.layout import checked_run
from moetrace.store.storage.open import open_storage
from moetrace.store.write.compact_finished import compact_finished
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.engine.settings import require_engine
from moetrace.tracer.runs.planning import open_inputs, plan_trace
from moetrace.tracer.runs.record import planned_record, resumed_record, stored_record

if TYPE_CHECKING:
    from moetrace.store.format.records import RunRecord
    from moetrace.store.storage.base import Storage
    from moetrace.tracer.plan.shards import PlannedShard
    from moetrace.tracer.runs.planning import PlannedTrace
    from moetrace.tracer.runs.progress import TraceProgress
    from moetrace.tracer.runs.settings import TraceSettings


@dataclass(frozen=True)
class PreparedTrace:
    """A trace whose engine may start.

    - record: what is known of the run before it does; todo: the shards that the store lacks
    """

    planned: PlannedTrace
    record: RunRecord
    storage: Storage
    todo: tuple[PlannedShard, ...]

    @property
    def skipped_tokens(self) -> int:
        """Return the tokens of the shards that the store has."""
        return self.planned.plan.tokens - sum(shard.tokens for shard in self.todo)

    def end_whole(self) -> str:
        """Do what is left to do once the store has every shard; return what a person should know of it, if anything."""
        self.planned.plan.remove_kept()
        return compact_finished(self.storage, self.record.run)


def prepare(
    model: str,
    corpus: str,
    store: str | Path,
    *,
    run: str | None,
    revision: str | None,
    settings: TraceSettings,
    progress: TraceProgress,
) -> PreparedTrace:
    """Plan a trace and compare it with what the store has of the run.

    Raises MoetraceError children: no such model or not a MoE, a bad corpus, a store with another run of this name,
    no vLLM where a model is to be run.
    """
    if not settings.engine.synthetic:
        require_engine()
    settings.check()
    inputs = open_inputs(model, corpus, settings, revision=revision, progress=progress)
    name = checked_run(run or default_run(model, corpus, synthetic=settings.engine.synthetic))
    storage = open_storage(store)
    stored = stored_record(storage, name)
    planned = plan_trace(inputs, settings, progress)
    record = planned_record(name, planned)
    done: set[str] = set()
    if stored is not None:
        # Refuse, or find nothing to do, before an engine is started; what only the engine knows is checked after that.
        done = StoreWriter(storage, resumed_record(record, stored, planned.settings)).committed()
    todo = tuple(shard for shard in planned.plan.shards if shard.key not in done)
    return PreparedTrace(planned, record, storage, todo)


def default_run(model: str, corpus: str, *, synthetic: bool = False) -> str:
    """Return the name of a run that nobody named: the model's and the corpus's, and whether its routing is made up."""
    names = (Path(model.rstrip("/")).name, Path(corpus.removeprefix("hf:").split(":")[0].rstrip("/")).stem)
    words = [re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") for name in names]
    return "-".join([*words, "synthetic"] if synthetic else words)[:128]
