"""Where captured shards go: into the store by threads of their own, never more bytes of them in memory than allowed."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from moetrace.store.format.records import CommitRecord
    from moetrace.store.shard.shard import Shard
    from moetrace.store.write.writer import StoreWriter

DEFAULT_MEMORY = 2 * 2**30  # bytes of captured shards in memory, unless --max-memory says otherwise


MOST_WRITERS = 4  # by default


def default_writers(*, background: bool) -> int:
    """Return how many threads write shards: beside an engine that is fed by one core, at most four of the others.

    Where the engine pauses (not `background`), all cores.
    """
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores - 1, MOST_WRITERS)) if background else cores


class Outlet:
    """Writes shards as they come, and holds the engine back while they take all the memory that is allowed.

    A shard's bytes are reserved before it is begun and free again once it is committed. Used as a context: its end
    writes, and waits for, every shard that was put, also where an error ends it.

    With `background` threads write while the engine runs. An engine that computes on the CPU would wait, in every
    one of its parallel loops, for the cores that the threads have: there, without `background`, `put` pauses the engine
    while each thread writes a shard.
    """

    def __init__(
        self,
        writer: StoreWriter,
        *,
        limit: int = DEFAULT_MEMORY,
        background: bool = True,
        writers: int | None = None,
        committed: Callable[[CommitRecord], None] | None = None,
    ) -> None:
        """Write with `writer`, at most `limit` bytes at a time; `committed` is told of each shard, in the order of put.

        It is called by the thread that puts, never by one that writes. `writers`: threads that write, by default
        `default_writers`.
        """
        self.limit = limit
        self.peak = 0  # the most bytes that were ever reserved
        self._writer, self._background, self._committed = writer, background, committed
        self._threads = writers or default_writers(background=background)
        self._pool = ThreadPoolExecutor(max_workers=self._threads, thread_name_prefix="moetrace-writer")
        self._held: list[Shard] = []  # put, and waiting until there is one for each thread
        self._writing: deque[Future[CommitRecord]] = deque()
        self._reserved: dict[str, int] = {}
        self._freed = threading.Condition()

    def reserve(self, key: str, size: int, *, wait: bool) -> bool:
        """Reserve the bytes of a shard; where they are not free, wait for them or return False.

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
        if full:
            self._write_held()  # their bytes are what is waited for
        with self._freed:
            self._freed.wait_for(lambda: self._fits(size))
            self._reserved[key] = size
            self.peak = max(self.peak, sum(self._reserved.values()))
            return True

    def give_back(self, key: str) -> None:
        """Give back the bytes of a shard that was written or dropped; nothing happens where it has none."""
        with self._freed:
            self._reserved.pop(key, None)
            self._freed.notify_all()

    def put(self, shard: Shard) -> None:
        """Take a shard over to write it; drop it after that, so that its memory is free once it is written.

        Raises why a shard that was put could not be written: a StoreError or CaptureError, see `StoreWriter.write`.
        """
        self._held.append(shard)
        if self._background or len(self._held) >= self._threads:
            self._write_held()
        self._report(wait=not self._background and not self._held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._pool:
            self._write_held()
            self._report(wait=True)

    def _fits(self, size: int) -> bool:
        return sum(self._reserved.values()) + size <= self.limit

    def _write_held(self) -> None:
        self._writing.extend(self._pool.submit(self._write, shard) for shard in self._held)
        self._held.clear()

    def _write(self, shard: Shard) -> CommitRecord:
        try:
            return self._writer.write(shard)
        finally:
            self.give_back(shard.key)

    def _report(self, *, wait: bool) -> None:
        """Tell of the shards that are written, with `wait` of all that are being written; raise why one is not."""
        while self._writing and (wait or self._writing[0].done()):
            commit = self._writing.popleft().result()
            if self._committed is not None:
                self._committed(commit)
