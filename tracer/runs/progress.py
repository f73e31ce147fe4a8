"""What a caller may watch of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.tracer.plan.plan import PlanSummary


class TraceProgress(Progress):
    """Who watches a trace: `advance` counts tokens, below 0 those of texts that an engine lost when it failed."""

    def planned(self, plan: PlanSummary, skipped_tokens: int) -> None:
        """Learn what there is to do, and how much of it the store has already."""

    def workers(self, states: Mapping[int, tuple[str, int]]) -> None:
        """Learn of each worker of a trace, by its number, what it does and how many shards it has committed."""
