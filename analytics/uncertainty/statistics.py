"""The metrics that can be resampled, computed for many replicates at once.

The definitions are those of the SQL views of the same names; tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = npt.NDArray[np.float64]
Counts = dict[str, Floats]  # language -> [R, E], how often each of R replicates chose each of E experts
Values = dict[
    tuple[Any, ...], Floats
]  # what a value is about, run and layer left out -> [R], its value in each replicate


def jaccard(counts: Counts, top_k: int, n: int | None = None) -> Values:
    """Return the Jaccard overlap of expert sets; keys (lang_a, lang_b)."""
    experts = next(iter(counts.values())).shape[1]
    size = min(n or top_k, experts)
    sets = {}
    for lang, count in counts.items():
        # Descending counts, ties to the lower expert: a stable sort of what is negative.
        chosen = np.argsort(-count, axis=1, kind="stable")[:, :size]
        sets[lang] = np.zeros(count.shape, dtype=np.float32)
        np.put_along_axis(sets[lang], chosen, 1, axis=1)
    found = {}
    for lang_a, lang_b in combinations(sorted(counts), 2):
        both = np.einsum("re,re->r", sets[lang_a], sets[lang_b]).astype(np.float64)
        found[lang_a, lang_b] = both / (2 * size - both)
    return found


def divergence(counts: Counts, top_k: int) -> Values:  # noqa: ARG001  every metric takes it
    """Return the Jensen-Shannon divergence of activation shares, nats; keys (lang_a, lang_b)."""
    shares = {lang: _shares(count) for lang, count in counts.items()}
    entropies = {lang: _entropy(share) for lang, share in shares.items()}
    return {
        (a, b): np.maximum(_entropy((shares[a] + shares[b]) / 2) - (entropies[a] + entropies[b]) / 2, 0)
        for a, b in combinations(sorted(counts), 2)
    }


def specificity(counts: Counts, top_k: int) -> Values:
    """Return a over the mean of a over languages (1e-8 where that is 0); keys (lang, expert)."""
    frequencies = {lang: _shares(count) * top_k for lang, count in counts.items()}
    mean = sum(frequencies.values(), np.zeros(1)) / len(frequencies)
    mean = np.where(mean == 0, 1e-8, mean)
    found: Values = {}
    for lang, frequency in frequencies.items():
        for expert, values in enumerate((frequency / mean).T):
            found[lang, expert] = values
    return found


def routing_entropy(counts: Counts, top_k: int) -> Values:  # noqa: ARG001
    """Return the entropy of activation shares, nats; keys (lang,)."""
    return {(lang,): _entropy(_shares(count)) for lang, count in counts.items()}


def normalized_divergence(p: Floats, q: Floats) -> Floats:
    """Return JSD / (ln E - (H(p) + H(q)) / 2) of each row of p and q [S, E], 0 where the denominator is below 1e-8."""
    halves = (_entropy(p) + _entropy(q)) / 2
    room = np.log(p.shape[1]) - halves
    jsd = np.maximum(_entropy((p + q) / 2) - halves, 0)
    return np.where(room < 1e-8, 0, np.minimum(jsd / np.where(room < 1e-8, 1, room), 1))


@dataclass(frozen=True)
class Metric:
    """A metric that can be resampled.

    - keys: the view's columns that say what a value is about, run and layer left out
    - column: the view's column that holds the value
    - of_counts: its values from counts, top-k and the metric's own arguments; None where it is no function of counts
    """

    keys: tuple[str, ...]
    column: str
    of_counts: Callable[..., Values] | None


METRICS = {
    "jaccard": Metric(("lang_a", "lang_b"), "jaccard", jaccard),
    "divergence": Metric(("lang_a", "lang_b"), "jsd", divergence),
    "specificity": Metric(("lang", "expert"), "specificity", specificity),
    "routing_entropy": Metric(("lang",), "entropy", routing_entropy),
    "pivot_similarity": Metric(("lang",), "similarity", None),
}


def _shares(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # a draw without any text of a language has no shares
        return counts / counts.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _entropy(shares: Floats) -> Floats:
    """Return H of each row, nats."""
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=1)  # type: ignore[no-any-return]
