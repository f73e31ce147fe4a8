"""What a caller may watch of a training."""

from __future__ import annotations

from moetrace.store.progress import Progress


class TrainingProgress(Progress):
    """Who watches a training: `advance` counts steps of the optimizer, or batches of an evaluation."""

    def loss(self, value: float) -> None:
        """Learn what the training loss is now, nats a token."""
