"""How many bytes of captured shards may be in memory at once: back-pressure from the disk to the engine."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryBudget:
    """Bytes that shards take from the moment they are begun until they are written; safe between threads."""

    def __init__(self, limit: int) -> None:
        """Allow `limit` bytes."""
        self.limit = limit
        self.peak = 0
        self.relief: Callable[[], None] | None = None  # called, before any waiting, to write what is being held back
        self._taken: dict[str, int] = {}
        self._freed = threading.Condition()

    def take(self, key: str, size: int, *, wait: bool) -> bool:
        """Take the bytes of a shard; where they are not free, wait for them or return False.

        Raises MoetraceError where the shard alone is larger than the limit.
        """
        if size > self.limit:
            raise MoetraceError(
                f"shard {key} takes {size / 2**20:.0f} MiB in memory, more than --max-memory allows "
                f"({self.limit / 2**20:.0f} MiB); raise it, or trace into a new run with smaller --shard-tokens"
            )
        with self._freed:
            full = not self._fits(size)
            if full and not wait:
                return False
        if full and self.relief is not None:
            self.relief()
        with self._freed:
            self._freed.wait_for(lambda: self._fits(size))
            self._taken[key] = size
            self.peak = max(self.peak, sum(self._taken.values()))
            return True

    def give_back(self, key: str) -> None:
        """Give back the bytes of a shard that was written or dropped; nothing happens where it has none."""
        with self._freed:
            self._taken.pop(key, None)
            self._freed.notify_all()

    def _fits(self, size: int) -> bool:
        return sum(self._taken.values()) + size <= self.limit
