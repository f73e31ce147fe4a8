"""What a caller may watch of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.progress import Progress

if TYPE_CHECKING:
    from moetrace.tracer.plan.plan import Plan


class TraceProgress(Progress):
    """Who watches a trace: `advance` counts tokens, below 0 those of texts that an engine lost when it failed."""

    def planned(self, plan: Plan, skipped_tokens: int) -> None:
        """Learn what there is to do, and how much of it the store has already."""
