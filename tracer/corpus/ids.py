"""Ids of texts, remembered as digests: eight bytes an id however long it is, so that a corpus may have any number."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

FIRST_LOOK = 1024


class IdDigests:
    """The 64-bit digests of ids in the order in which they were added; another seed gives other digests.

    Among ten million ids, two different ones share a digest with a probability of 3e-6.
    """

    def __init__(self, seed: int = 0) -> None:
        self._key = str(seed).encode()
        self._digests = array("Q")

    def __len__(self) -> int:
        return len(self._digests)

    def digest(self, text_id: str) -> int:
        """Return an id's digest, 0 to 2**64 - 1."""
        return int.from_bytes(blake2b(text_id.encode(), digest_size=8, key=self._key).digest(), "big")

    def add(self, text_id: str) -> None:
        """Remember an id."""
        self._digests.append(self.digest(text_id))

    def sorted(self) -> npt.NDArray[np.uint64]:
        """Return the digests, sorted: uint64 [ids]."""
        return np.sort(np.frombuffer(self._digests, dtype=np.uint64))

    def repeats(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of positions, in order of adding, whose digests are the same: of one id, but for rare chance."""
        ordered = self.sorted()
        for digest in np.unique(ordered[1:][ordered[1:] == ordered[:-1]]):
            positions = np.flatnonzero(np.frombuffer(self._digests, dtype=np.uint64) == digest)
            yield int(positions[0]), int(positions[1])


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
