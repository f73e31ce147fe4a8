"""The error that training raises on purpose."""

from __future__ import annotations

from moetrace.store.errors import MoetraceError


class TrainingError(MoetraceError):
    """A model cannot be trained with a mask, or a file of trained experts does not fit it; the message says why."""
