"""Ids of texts, remembered as digests: 16 bytes an id however long it is, so that a corpus may have any number."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

DIGEST_BYTES = 16  # among a billion ids, two share a digest with a probability below 1e-20
FIRST_LOOK = 1024


class IdDigests:
    """The digests of ids in the order in which they were added; another seed gives other digests."""

    def __init__(self, seed: int = 0) -> None:
        self._key = str(seed).encode()
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._digests) // DIGEST_BYTES

    def digest(self, text_id: str) -> bytes:
        """Return an id's digest, 16 bytes."""
        return blake2b(text_id.encode(), digest_size=DIGEST_BYTES, key=self._key).digest()

    def add(self, text_id: str) -> None:
        """Remember an id."""
        self._digests += self.digest(text_id)

    def array(self) -> npt.NDArray[np.bytes_]:
        """Return the digests in the order in which they were added: S16 [ids]."""
        return np.frombuffer(bytes(self._digests), dtype=f"S{DIGEST_BYTES}")

    def repeated(self) -> int | None:
        """Return the index, in order of adding, of an id that was added before; None where all ids differ.

        Takes a sort of all digests, 32 bytes an id for as long as it lasts.
        """
        digests = self.array()
        ordered = np.sort(digests)
        repeats = ordered[1:][ordered[1:] == ordered[:-1]]
        return int(np.flatnonzero(digests == repeats[0])[1]) if len(repeats) else None


class UniqueIds(IdDigests):
    """Ids that should differ: looks for repeats whenever their number has doubled, so that most are found early."""

    def __init__(self) -> None:
        super().__init__()
        self._next_look = FIRST_LOOK

    def repeated_so_far(self) -> int | None:
        """Return the index of a repeated id where it is time to look and there is one, else None."""
        if len(self) < self._next_look:
            return None
        self._next_look = 2 * len(self)
        return self.repeated()
