"""Putting a token's experts in rank order, a whole layer at a time.

Weight and expert make one unsigned integer that sorts by descending weight, ties by ascending expert id: non-negative
floats sort like their bits. The k keys of all tokens are sorted by one sorting network of whole-array minima and
maxima, which is several times faster than sorting millions of rows of k.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from store.weights import dropped_bits, round_weights


def rank_layer(
    experts: npt.NDArray[np.unsignedinteger[Any]], weights: npt.NDArray[np.float32], precision: str
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.float32]]:
    """Return experts and weights [k, T] of one layer, each column by descending weight, ties by lower expert id.

    experts: uint8 | uint16 [k, T]; weights: float32 [k, T], not negative. The weights that are returned, and by which
    ranks are decided, are rounded to the grid of `precision`.
    """
    drop = dropped_bits(precision)
    # 31 bits of a float without its sign, less those that rounding leaves zero, and the bits of an expert id.
    bits, id_bits = 31 - drop, 8 * experts.itemsize
    kind = np.dtype(np.uint32 if bits + id_bits <= 32 else np.uint64).type
    key = round_weights(weights, precision).view(np.uint32).astype(kind, copy=False)
    key = ((kind((1 << bits) - 1) - (key >> kind(drop))) << kind(id_bits)) | experts
    _sort_columns(key)
    ranked = (kind((1 << bits) - 1) - (key >> kind(id_bits))) << kind(drop)
    return (key & kind((1 << id_bits) - 1)).astype(experts.dtype), ranked.astype(np.uint32, copy=False).view(np.float32)


def _sort_columns(rows: npt.NDArray[Any]) -> None:
    """Sort every column of [k, T] in place, ascending."""
    smaller = np.empty_like(rows[0])
    for low, high in _network(len(rows)):
        np.minimum(rows[low], rows[high], out=smaller)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low] = smaller


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
