"""What runs in a cluster's processes: the planner, which knows the plan and how far the workers are, and the workers.

Plain classes: `cluster` makes actors of them, so nothing here imports Ray but to ask the planner. A shard's tokens go
from the planner to the worker that has claimed it; what is captured goes from the worker to the store alone.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from moetrace.store.read.failed import failed_texts
from moetrace.store.storage.attempts import give_up_claims
from moetrace.store.storage.open import open_storage
from moetrace.store.storage.processes import this_process
from moetrace.store.write.writer import committed_shards
from moetrace.tracer.model.tokenizer import load_tokenizer
from moetrace.tracer.plan.spool import LOADED, Loaded, SpooledShard
from moetrace.tracer.runs.planning import generation_of
from moetrace.tracer.runs.prepare import PreparedTrace, prepare
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.shards import Written, trace_shards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.store.format.plan_record import PlannedShards
    from moetrace.store.format.records import CommitRecord, RunRecord
    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.plan.plan import PlanSummary
    from moetrace.tracer.plan.token_filter import TokenFilter
    from moetrace.tracer.runs.settings import TraceSettings

REPORTED = 1.0  # seconds between two reports of a worker


@dataclass(frozen=True)
class Job:
    """What every worker is told of a trace: all but the tokens.

    - plan: texts and tokens of each shard of each language; todo: of each shard that the store lacked, what a
      `SpooledShard` is made of
    """

    record: RunRecord
    store: str
    facts: ModelFacts
    settings: TraceSettings
    token_filter: TokenFilter | None
    plan: PlannedShards
    todo: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Outline:
    """What the driver is told of a trace: its size does not grow with the number of shards."""

    run: str
    summary: PlanSummary
    skipped_tokens: int
    todo: int


@dataclass(frozen=True)
class Ending:
    """What became of a trace: shards that the store lacks; texts that could not be traced, now and before.

    said: what a person should know of it, empty where that is nothing
    """

    said: str
    missing: int
    failed: int
    failed_before: int


@dataclass
class WorkerState:
    """How far a worker is: what it does, what it has written; `process` is what its claims name."""

    doing: str
    process: Mapping[str, Any]
    shards: int = 0
    tokens: int = 0


class Planner:
    """Plans a trace, hands out the tokens of shards, and keeps what workers report."""

    def __init__(self) -> None:
        self._prepared: PreparedTrace | None = None
        self._failed_before = 0
        self._workers: dict[int, WorkerState] = {}

    def prepare(self, model: str, corpus: str, store: str, **options: Any) -> Outline:
        """Plan, and return the outline; options and errors are those of `prepare.prepare`."""
        prepared = self._prepared = prepare(model, corpus, store, progress=TraceProgress(), **options)
        plan = prepared.planned.plan
        self._failed_before = failed_texts(prepared.storage, prepared.record.run)
        return Outline(prepared.record.run, plan.summary(), prepared.skipped_tokens, len(prepared.todo))

    def job(self) -> Job:
        """Return what a worker is told."""
        prepared, planned = self._made, self._made.planned
        return Job(
            prepared.record,
            prepared.storage.location,
            planned.facts,
            planned.settings,
            planned.token_filter,
            planned.plan.sizes(),
            [
                {
                    "index": index,
                    "lang": shard.lang,
                    "number": shard.number,
                    "first": int(shard.seqs[0]),
                    "texts": shard.texts,
                    "tokens": shard.tokens,
                    "truncated": shard.truncated_texts,
                }
                for index, shard in enumerate(prepared.todo)
            ],
        )

    def load(self, index: int) -> Loaded:
        """Return the texts and tokens of a shard, by its number in `Job.todo`."""
        shard = self._made.todo[index]
        return Loaded(tuple(shard.text_ids), shard.truncated, tuple(shard.token_ids))

    def report(self, worker: int, state: WorkerState) -> None:
        """Learn how far a worker is."""
        self._workers[worker] = state

    def gone(self, worker: int, *, died: bool) -> None:
        """Learn that a worker's process is gone, of itself or not: what it had claimed is anybody's at once."""
        state = self._workers.get(worker)
        if state is None:
            return
        texts = {(shard.lang, shard.number): shard.texts for shard in self._made.todo} if died else {}
        give_up_claims(
            self._made.storage,
            self._made.record.run,
            state.process,
            (lambda lang, number: texts[lang, number]) if died else None,
        )
        self._workers[worker] = replace(state, doing="died, and is started again" if died else "ended")

    def states(self) -> dict[int, WorkerState]:
        """Return how far every worker is, as it last reported."""
        return dict(self._workers)

    def ending(self) -> Ending:
        """Return what the store lacks, and what could not be traced."""
        storage, run = self._made.storage, self._made.record.run
        done = committed_shards(storage, run)
        missing = sum(shard.key not in done for shard in self._made.todo)
        said = "" if missing else self._made.end_whole()
        return Ending(said, missing, failed_texts(storage, run) - self._failed_before, self._failed_before)

    @property
    def _made(self) -> PreparedTrace:
        if self._prepared is None:
            raise RuntimeError("nothing is planned yet")
        return self._prepared


class Worker:
    """One engine, which traces what it can claim until the store has every shard."""

    def __init__(self, number: int, of: int, planner: Any, cores: Sequence[int] | None = None) -> None:
        """Take part as worker `number` of so many; `cores`: those of this machine that are its own."""
        if cores is not None:
            os.sched_setaffinity(0, cores)
        self._number, self._of, self._planner = number, of, planner

    def run(self) -> Written:
        """Trace; return what was written here. Raises as `trace_shards` does."""
        import ray  # noqa: PLC0415  an extra

        job: Job = ray.get(self._planner.job.remote())
        spool = _PlannersSpool(self._planner)
        storage, reports = open_storage(job.store), _Reports(self._planner, self._number)
        done = committed_shards(storage, job.record.run)
        shards = [SpooledShard(spool, **fields) for fields in job.todo]
        shards = [shard for shard in shards if shard.key not in done]
        if not shards:
            return Written()
        first = self._number * len(shards) // self._of  # workers begin apart, and meet at the end
        tokenizer = load_tokenizer(job.facts) if job.settings.max_new_tokens else None
        generation = generation_of(job.settings, job.facts, tokenizer) if tokenizer else None
        written = trace_shards(
            [*shards[first:], *shards[:first]],
            job.record,
            job.plan,
            storage,
            job.facts,
            job.settings,
            generation,
            job.token_filter,
            reports,
        )
        ray.get(reports.end())
        return written


class _PlannersSpool:
    """The planner's spool, from another process: a few shards stay here once they were asked for."""

    def __init__(self, planner: Any) -> None:
        self._planner = planner
        self.load = lru_cache(LOADED)(self._ask)

    def _ask(self, index: int) -> Loaded:
        import ray  # noqa: PLC0415  an extra

        loaded: Loaded = ray.get(self._planner.load.remote(index))
        return loaded


class _Reports(TraceProgress):
    """Tells the planner how far a worker is, at most once a second."""

    def __init__(self, planner: Any, number: int) -> None:
        self._planner, self._number = planner, number
        self._state = WorkerState("starting", this_process())
        self._told = 0.0
        self._tell()

    def stage(self, message: str, total: int | None = None) -> None:  # noqa: ARG002  nothing is drawn here
        """Report what is being done."""
        self._state.doing = message
        self._tell()

    def committed(self, commit: CommitRecord) -> None:
        """Report a shard."""
        self._state.shards += 1
        self._state.tokens += commit.tokens
        if time.monotonic() - self._told > REPORTED:
            self._tell()

    def end(self) -> Any:
        """Report the end; return what is to be waited for until it is known."""
        self._state.doing = "done"
        return self._tell()

    def _tell(self) -> Any:
        self._told = time.monotonic()
        return self._planner.report.remote(self._number, self._state)
