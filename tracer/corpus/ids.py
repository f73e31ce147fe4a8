"""Ids of texts, remembered as digests: eight bytes an id however long it is, on the disk where they are many."""

from __future__ import annotations

import os
import tempfile
from array import array
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    Digests = npt.NDArray[np.uint64]

FIRST_LOOK = 1024
RUN = 1 << 19  # digests that are held in memory; more are sorted and go to a file, so many at a time,
BLOCK = 1 << 13  # of which so many of each are in memory when they are merged


class IdDigests:
    """The 64-bit digests of ids; another seed gives other digests. In memory are 4 MB of them, whatever their number.

    Among ten million ids, two different ones share a digest with a probability of 3e-6.
    """

    def __init__(self, seed: int = 0) -> None:
        self._keyed = blake2b(digest_size=8, key=str(seed).encode())
        self._digests = array("Q")  # not yet in a run
        self._runs = _Runs()

    def __len__(self) -> int:
        return self._runs.count + len(self._digests)

    def digest(self, text_id: str) -> int:
        """Return an id's digest, 0 to 2**64 - 1."""
        keyed = self._keyed.copy()
        keyed.update(text_id.encode())
        return int.from_bytes(keyed.digest(), "big")

    def add(self, text_id: str) -> None:
        """Remember an id; raise MoetraceError where the disk is full."""
        self._digests.append(self.digest(text_id))
        if len(self._digests) >= RUN:
            self._runs.begin()
            self._runs.write(self._sorted())
            self._digests = array("Q")

    def blocks(self) -> Iterator[Digests]:
        """Yield the digests in blocks, ascending over all of them; one that was added twice comes twice."""
        return _merged([*self._runs.read(), iter([self._sorted()])])

    def repeats(self) -> Iterator[int]:
        """Yield, ascending, the digests that were added more than once: of one id, but for rare chance."""
        last = np.empty(0, np.uint64)
        for block in self.blocks():
            joined = np.concatenate([last, block])
            for digest in np.unique(joined[1:][joined[1:] == joined[:-1]]):
                yield int(digest)
            last = block[-1:]

    def _sorted(self) -> Digests:
        return np.sort(np.array(self._digests, dtype=np.uint64))


class UniqueIds(IdDigests):
    """Ids that should differ: it is time to look for repeats whenever their number has doubled, and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._next_look = FIRST_LOOK

    def time_to_look(self) -> bool:
        """Tell whether the number of ids has doubled since this was last true."""
        due = len(self) >= self._next_look
        if due:
            self._next_look = 2 * len(self)
        return due


class DigestSet:
    """A set of digests, made of ascending blocks in which a digest may come twice. In memory are 4 MB at most."""

    def __init__(self, blocks: Iterable[Digests] = ()) -> None:
        """Read the blocks; raise MoetraceError where the disk is full."""
        self._runs, held, size = _Runs(), [], 0
        for block in _without_repeats(blocks):
            held.append(block)
            size += len(block)
            if size >= RUN:
                if not self._runs.count:
                    self._runs.begin()
                self._runs.write(np.concatenate(held))
                held, size = [], 0
        self._rest = np.concatenate([np.empty(0, np.uint64), *held])

    def __len__(self) -> int:
        return self._runs.count + len(self._rest)

    def blocks(self) -> Iterator[Digests]:
        """Yield the digests in blocks, ascending over all of them."""
        return chain(*self._runs.read(), [self._rest] if len(self._rest) else [])

    def union(self, other: Iterator[Digests]) -> DigestSet:
        """Return what is in the set or in ascending blocks."""
        return DigestSet(_merged([self.blocks(), other]))

    def intersection(self, other: DigestSet) -> DigestSet:
        """Return what is in both sets."""
        return DigestSet(_twice(_merged([self.blocks(), other.blocks()])))

    def first(self, count: int) -> Digests:
        """Return the lowest digests, fewer where there are not so many: uint64 [count]."""
        found, size = [np.empty(0, np.uint64)], 0
        for block in self.blocks():
            found.append(block)
            size += len(block)
            if size >= count:
                break
        return np.concatenate(found)[:count]


class _Runs:
    """Ascending runs of digests in a temporary file without a name, which is made when the first is begun."""

    def __init__(self) -> None:
        self.count = 0
        self._starts: list[int] = []

    def begin(self) -> None:
        if not self._starts:
            self._file = tempfile.TemporaryFile(prefix="moetrace-ids-", buffering=0)  # noqa: SIM115  goes with the runs
        self._starts.append(self.count)

    def write(self, digests: Digests) -> None:
        """Go on with the run that was begun last."""
        content = memoryview(digests.tobytes())
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise MoetraceError(
                f"{tempfile.gettempdir()}: cannot keep the ids of the corpus there ({error}); they take 8 bytes a "
                "text: free some space, or set TMPDIR to another folder"
            ) from error
        self.count += len(digests)

    def read(self) -> list[Iterator[Digests]]:
        """Return the runs, each in blocks."""
        ends = [*self._starts[1:], self.count]
        return [self._blocks(start, end) for start, end in zip(self._starts, ends, strict=False)]

    def _blocks(self, start: int, end: int) -> Iterator[Digests]:
        for first in range(start, end, BLOCK):
            size = 8 * (min(end, first + BLOCK) - first)
            yield np.frombuffer(os.pread(self._file.fileno(), size, 8 * first), dtype=np.uint64)


def _merged(sources: list[Iterator[Digests]]) -> Iterator[Digests]:
    """Yield what several sources of ascending blocks have, ascending over all of them."""
    heads = [(block, source) for source in sources if (block := _next(source)) is not None]
    while heads:
        limit = min(block[-1] for block, _ in heads)  # up to here, no source has anything that is not in memory
        taken, left = [], []
        for block, source in heads:
            count = int(np.searchsorted(block, limit, side="right"))
            taken.append(block[:count])
            rest = block[count:] if count < len(block) else _next(source)
            if rest is not None:
                left.append((rest, source))
        yield np.sort(np.concatenate(taken), kind="stable")  # which finds the order that is there
        heads = left


def _next(source: Iterator[Digests]) -> Digests | None:
    return next((block for block in source if len(block)), None)


def _without_repeats(blocks: Iterable[Digests]) -> Iterator[Digests]:
    last = np.empty(0, np.uint64)
    for block in blocks:
        if len(block):
            joined = np.concatenate([last, block])
            yield joined[1:][joined[1:] != joined[:-1]] if len(last) else np.unique(block)
            last = block[-1:]


def _twice(blocks: Iterable[Digests]) -> Iterator[Digests]:
    last = np.empty(0, np.uint64)
    for block in blocks:
        joined = np.concatenate([last, block])
        yield joined[1:][joined[1:] == joined[:-1]]
        last = block[-1:]
