"""Texts as token ids, in arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from moetrace.tracer.plan.prompts import Encode

BATCH_TEXTS = 1024  # texts that are tokenised at once,
BATCH_CHARACTERS = 1_000_000  # or fewer, where they are long


@dataclass(frozen=True)
class Tokens:
    """Token ids of consecutive texts: lengths int32 [texts], ids int32 [tokens]."""

    lengths: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]


def tokenise(encode: Encode, texts: Sequence[str]) -> Tokens:
    """Return the token ids of texts; raises what `encode` raises."""
    lengths: list[int] = []
    ids: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]
    for batch in _batches(texts):
        encoded = encode(batch)
        if len(encoded) != len(batch):
            raise ValueError(f"the tokenizer made {len(encoded)} texts of {len(batch)}")
        sizes = [len(one) for one in encoded]
        ids.append(np.fromiter(chain.from_iterable(encoded), np.int32, sum(sizes)))
        lengths += sizes
    return Tokens(np.array(lengths, dtype=np.int32), np.concatenate(ids))


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in batches, each of some texts and at most a few million characters unless one is longer."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == BATCH_TEXTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
