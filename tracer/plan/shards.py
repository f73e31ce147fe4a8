"""The planned shard: consecutive texts of a language as tokens, the unit that is traced, written and committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.format.layout import shard_key

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class PlannedShard:
    """Consecutive texts of one language that are traced, written and committed together.

    seqs: number of each text in its language; token_ids: the texts' tokens, one int32 array a text.
    """

    lang: str
    number: int
    seqs: npt.NDArray[np.int32]
    text_ids: tuple[str, ...]
    truncated: npt.NDArray[np.bool_]
    token_ids: tuple[npt.NDArray[np.int32], ...]

    @property
    def key(self) -> str:
        """Return a name for the shard that is unique in its plan."""
        return shard_key(self.lang, self.number)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Return the number of tokens of each text."""
        return np.array([len(ids) for ids in self.token_ids], dtype=np.int32)

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the shard."""
        return sum(len(ids) for ids in self.token_ids)

    @property
    def texts(self) -> int:
        """Return the number of texts of the shard."""
        return len(self.seqs)

    @property
    def truncated_texts(self) -> int:
        """Return how many of the texts were cut to the model's window."""
        return int(self.truncated.sum())
