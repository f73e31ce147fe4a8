"""Languages that are alike: their order in a square heat map, in which blocks show, and their clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence


def similarity_matrix(pairs: pl.DataFrame, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return 1 - divergence over all layers, [names, names], of the dataset of pairs; NaN where it is not known."""
    number = {name: index for index, name in enumerate(names)}
    similarity = np.eye(len(names))
    overall = pairs.filter(pl.col("layers") == "all layers").select("lang_a", "lang_b", "divergence")
    for lang_a, lang_b, divergence in overall.iter_rows():
        a, b = number[lang_a], number[lang_b]
        similarity[a, b] = similarity[b, a] = np.nan if divergence is None else 1 - divergence
    return similarity


def similarity_order(names: Sequence[str], similarity: npt.NDArray[np.float64]) -> list[str]:
    """Return the names as the leaves of an average-linkage tree, each merge turned so that its nearest ends meet.

    `similarity` is symmetric, [names, names]; NaN counts as the least similar. Takes O(names^3).
    """
    return [names[number] for leaves in _merged(similarity, 1) for number in leaves]


def clusters(names: Sequence[str], similarity: npt.NDArray[np.float64], most: int) -> dict[str, str]:
    """Return name -> its cluster, of the tree of `similarity_order` where it has `most` branches; the largest first.

    A cluster is called by the name that is most like the others in it, and by how many they are: "a and 3 alike".
    """
    alike = np.nan_to_num(similarity.astype(np.float64), nan=-1.0)
    found: dict[str, str] = {}
    for members in sorted(_merged(similarity, most), key=lambda leaves: (-len(leaves), min(leaves))):
        centre = members[int(np.argmax(alike[np.ix_(members, members)].sum(axis=1)))]
        others = len(members) - 1
        title = f"{names[centre]} and {others} alike" if others else f"{names[centre]} alone"
        found |= {names[number]: title for number in members}
    return found


def _merged(similarity: npt.NDArray[np.float64], most: int) -> list[list[int]]:
    """Return the branches that average linkage leaves when it has merged all into `most`, each with its leaves."""
    count = len(similarity)
    alike = np.nan_to_num(similarity.astype(np.float64), nan=-1.0)
    between = alike.copy()
    np.fill_diagonal(between, -np.inf)
    branches = {number: [number] for number in range(count)}
    while len(branches) > most:
        first, second = divmod(int(np.argmax(between)), count)
        left, right = branches.pop(first), branches.pop(second)
        mixed = (len(left) * between[first] + len(right) * between[second]) / (len(left) + len(right))
        between[first], between[:, first] = mixed, mixed
        between[second], between[:, second] = -np.inf, -np.inf
        between[first, first] = -np.inf
        branches[first] = _joined(left, right, alike)
    return list(branches.values())


def _joined(left: list[int], right: list[int], alike: npt.NDArray[np.float64]) -> list[int]:
    ways = [(a, b) for a in (left, left[::-1]) for b in (right, right[::-1])]
    a, b = max(ways, key=lambda way: alike[way[0][-1], way[1][0]])
    return a + b
