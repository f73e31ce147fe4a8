"""The order of languages in a square heat map, such that languages alike stand together and blocks show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence


def similarity_order(names: Sequence[str], similarity: npt.NDArray[np.float64]) -> list[str]:
    """Return the names as the leaves of an average-linkage tree, each merge turned so that its nearest ends meet.

    `similarity` is symmetric, [names, names]; NaN counts as the least similar. Takes O(names^3).
    """
    if not names:
        return []
    alike = np.nan_to_num(similarity.astype(np.float64), nan=-1.0)
    between = alike.copy()
    np.fill_diagonal(between, -np.inf)
    clusters = {number: [number] for number in range(len(names))}
    while len(clusters) > 1:
        first, second = divmod(int(np.argmax(between)), len(names))
        left, right = clusters.pop(first), clusters.pop(second)
        mixed = (len(left) * between[first] + len(right) * between[second]) / (len(left) + len(right))
        between[first], between[:, first] = mixed, mixed
        between[second], between[:, second] = -np.inf, -np.inf
        between[first, first] = -np.inf
        clusters[first] = _joined(left, right, alike)
    return [names[number] for number in next(iter(clusters.values()))]


def _joined(left: list[int], right: list[int], alike: npt.NDArray[np.float64]) -> list[int]:
    ways = [(a, b) for a in (left, left[::-1]) for b in (right, right[::-1])]
    a, b = max(ways, key=lambda way: alike[way[0][-1], way[1][0]])
    return a + b
