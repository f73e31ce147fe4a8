"""What a caller may watch of a long job: tracing, importing, training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moetrace.store.format.records import CommitRecord

log = logging.getLogger(__name__)


class Progress:
    """Who watches a job; this one only logs its stages. Override what is to be shown.

    A job counts in its own unit: tokens that are traced, bytes that are read, steps of training.
    """

    def stage(self, message: str, total: int | None = None) -> None:  # noqa: ARG002  for those who draw a bar
        """Learn what is being done from now on and, where it is known, how many units of it there are."""
        log.info(message)

    def advance(self, count: int = 1) -> None:
        """Learn that `count` more units are done."""

    def committed(self, commit: CommitRecord) -> None:
        """Learn that a shard is in the store."""
