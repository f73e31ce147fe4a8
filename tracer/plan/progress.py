"""What is said of a plan that takes long."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SOON, LATER = 5.0, 60.0  # seconds until something is said, doubled each time, and at most


class SaidNowAndThen:
    """Takes the progress of `make_plan`, and says it in words every few seconds, less often the longer it takes."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._say, self._clock = say, clock
        self._pause = SOON
        self._due = clock() + SOON

    def __call__(self, texts: int, tokens: int) -> None:
        """Learn how many texts and tokens are planned."""
        if self._clock() >= self._due:
            self._say(f"tokenised {texts:,} texts, {tokens:,} tokens so far")
            self._pause = min(2 * self._pause, LATER)
            self._due = self._clock() + self._pause
