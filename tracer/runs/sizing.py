"""What a whole job would take, before it runs: bytes, files, memory and hours, from constants that were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.tracer.model.checkpoint import read_checkpoint
from moetrace.tracer.runs.inspection import Inspection, matmul_rate
from moetrace.tracer.runs.outlet import DEFAULT_MEMORY, default_writers
from moetrace.tracer.runs.planning import open_inputs, plan_trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.tracer.plan.plan import PlanSummary
    from moetrace.tracer.runs.progress import TraceProgress
    from moetrace.tracer.runs.settings import TraceSettings

# Seconds of one core that a routing decision takes from the engine's step to a committed file: capture and writing by
# two threads, as `make bench-pipeline` measured them on an EPYC (docs/performance.md). Others were twice as fast.
DECISION_SECONDS = 63e-9


@dataclass(frozen=True)
class Sizing:
    """What a job takes; where the model goes on after texts, at most.

    - decisions: routing decisions (a layer, a token, one of its experts)
    - store_bytes: grid of gate weights -> table -> bytes; files: data files and commit records
    - rate: tokens a second of one engine, None where nobody knows; rate_from: where it is from
    - writers: threads that write beside each engine
    """

    summary: PlanSummary
    tokens: int
    decisions: int
    store_bytes: Mapping[str, Mapping[str, int]]
    files: int
    memory: int
    largest_shard: int
    rate: float | None
    rate_from: str
    workers: int
    writers: int

    @property
    def engine_seconds(self) -> float | None:
        """Return the seconds that all engines together take."""
        return self.tokens / self.rate if self.rate else None

    @property
    def writing_seconds(self) -> float:
        """Return the seconds of one core that capture and writing take, over all workers."""
        return self.decisions * DECISION_SECONDS

    @property
    def cores_for_writing(self) -> float | None:
        """Return how many cores beside each engine capture and writing keep busy at its rate."""
        return self.rate * self.decisions / self.tokens * DECISION_SECONDS if self.rate and self.tokens else None

    @property
    def seconds(self) -> float | None:
        """Return how long the job takes with all workers: as its engines do, or as its writers, if that is longer."""
        if self.engine_seconds is None:
            return None
        return max(self.engine_seconds, self.writing_seconds / self.writers) / self.workers


def size_trace(
    model: str,
    corpus: str,
    *,
    revision: str | None = None,
    settings: TraceSettings,
    workers: int = 1,
    progress: TraceProgress,
) -> Sizing:
    """Plan a job and return what it takes; no weight is loaded, no store is touched, vLLM need not be there.

    The rate is that of `settings.engine`, else an estimate: two operations for each active parameter and token, at the
    rate of matrix products on this machine's CPU. Raises MoetraceError as planning does.
    """
    settings.check()
    inputs = open_inputs(model, corpus, settings, revision=revision, progress=progress)
    found = Inspection(inputs.facts, None if settings.engine.synthetic else read_checkpoint(model, revision))
    planned = plan_trace(inputs, settings, progress)
    with planned.plan as plan:
        summary = plan.summary()
        new = settings.max_new_tokens
        largest = max(found.memory(shard.tokens + new * shard.texts, shard.texts) for shard in plan.shards)
        tokens = summary.tokens + new * summary.texts
        tables = set(settings.tables())
        sizes = found.store_bytes(tokens, summary.texts, summary.shards)
        grids = {"bf16": {"auto", "bf16"}, "f16": {"auto", "f16"}}
        rate, rate_from = settings.engine.rate, "as given by --rate"
        if rate is None and not settings.engine.synthetic and found.active_parameters is not None:
            rate = matmul_rate() / (2 * found.active_parameters)
            rate_from = "rough: matrix products of this machine's CPU"
        return Sizing(
            summary,
            tokens,
            tokens * found.decisions,
            {
                grid: {table: size for table, size in of_grid.items() if table in tables}
                for grid, of_grid in sizes.items()
                if settings.weight_precision in grids[grid]
            },
            summary.shards * (len(tables) + 1),
            max(settings.max_memory or DEFAULT_MEMORY, largest),
            largest,
            rate,
            rate_from,
            workers,
            settings.writers or default_writers(background=True),
        )
