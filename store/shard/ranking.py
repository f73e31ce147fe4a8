"""Putting a token's experts in rank order, a whole layer at a time.

Weight and expert make one unsigned integer: the bits of the rounded weight (non-negative floats sort like their bits)
and, in the bits that rounding leaves free, the complement of the expert id. Such keys fall by weight, ties by rising
expert id. The k keys of all tokens are sorted by one sorting network of whole-array minima and maxima, which is several
times faster than sorting millions of rows of k, and only then brought into the order of the file: one gather of keys
instead of two, of experts and of weights.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.weights import dropped_bits


class LayerRanking:
    """Ranks layers of T tokens one after another, in arrays it uses again: fresh memory costs more than the sorting.

    - experts: uint8 | uint16 [k, T]; weights: float32 [k, T]: the layer ranked last, each column by descending weight,
      ties by lower expert id

    Holds 13 bytes a token and rank where ids fit into the bits that the grid leaves free, else 21.
    """

    def __init__(self, tokens: int, top_k: int, num_experts: int, precision: str) -> None:
        shape = (top_k, tokens)
        drop, id_bits = dropped_bits(precision), (num_experts - 1).bit_length()
        self._shift = max(0, id_bits - drop)  # what the weight's bits make room by, where rounding frees too few
        kind = np.dtype(np.uint64 if self._shift else np.uint32).type
        self._id_mask = kind((1 << id_bits) - 1)
        self._weight_mask = kind((1 << 31) - (1 << drop))
        self._key, self._gathered = np.empty(shape, dtype=kind), np.empty(shape, dtype=kind)
        self._spare = np.empty(tokens, dtype=kind)
        self.experts = np.empty(shape, dtype=expert_dtype(num_experts))
        self.weights = np.empty(shape, dtype=np.float32)

    def rank(
        self,
        experts: npt.NDArray[np.unsignedinteger[Any]],
        weights: npt.NDArray[np.float32],
        order: npt.NDArray[np.intp],
    ) -> None:
        """Rank one layer, its columns in `order`.

        experts: uint8 | uint16 [k, T], below the number of experts; weights: float32 [k, T], rounded to the grid.
        """
        key, gathered = self._key, self._gathered
        bits: npt.NDArray[np.unsignedinteger[Any]] = weights.view(np.uint32)
        if self._shift:
            bits = np.left_shift(bits, key.dtype.type(self._shift), out=key)
        np.bitwise_or(bits, self._id_mask, out=key)
        np.subtract(key, experts, out=key)
        self._sort_columns()
        # mode: the default checks the indices by writing to a copy first.
        np.take(key, order, axis=1, out=gathered, mode="clip")
        np.invert(gathered, out=key)
        np.bitwise_and(key, self._id_mask, out=key)
        np.copyto(self.experts, key, casting="unsafe")
        if self._shift:
            np.right_shift(gathered, key.dtype.type(self._shift), out=gathered)
        np.bitwise_and(gathered, self._weight_mask, out=self.weights.view(np.uint32), casting="unsafe")

    def _sort_columns(self) -> None:
        """Sort every column of the keys in place, descending."""
        key, smaller = self._key, self._spare
        for high, low in _network(len(key)):
            np.minimum(key[high], key[low], out=smaller)
            np.maximum(key[high], key[low], out=key[high])
            key[low] = smaller


@cache
def _network(size: int) -> tuple[tuple[int, int], ...]:
    """Return the comparators of Batcher's odd-even merge sort (Knuth, TAOCP 3, 5.2.2, algorithm M) for `size` keys."""
    found = []
    top = 1 << max(size - 1, 0).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            found += [(i, i + d) for i in range(size - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(found)
