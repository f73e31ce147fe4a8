"""The metrics that can be resampled, computed for many replicates at once.

The definitions are those of the SQL views of the same names; tests compare the two. A language that a replicate drew no
text of has no shares: what is made of it is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = npt.NDArray[np.float64]
Counts = dict[str, Floats]  # language -> [R, E], how often each of R replicates chose each of E experts
Values = dict[
    tuple[Any, ...], Floats
]  # what a value is about, run and layer left out -> [R], its value in each replicate
Alternative = Literal["greater", "less", "two-sided"]

LEAST = 1e-300  # in place of 0 under a logarithm: 0 ln 0 is 0


def jaccard(counts: Counts, top_k: int, n: int | None = None) -> Values:
    """Return the Jaccard overlap of expert sets; keys (lang_a, lang_b)."""
    experts = next(iter(counts.values())).shape[1]
    size = min(n or top_k, experts)
    sets = {lang: expert_set(count, size) for lang, count in counts.items()}
    empty = {lang: count.sum(axis=1) == 0 for lang, count in counts.items()}
    found = {}
    for lang_a, lang_b in combinations(sorted(counts), 2):
        both = np.count_nonzero(sets[lang_a] & sets[lang_b], axis=1)
        found[lang_a, lang_b] = np.where(empty[lang_a] | empty[lang_b], np.nan, both / (2 * size - both))
    return found


def divergence(counts: Counts, top_k: int) -> Values:  # noqa: ARG001  every metric takes it
    """Return the Jensen-Shannon divergence of activation shares, nats; keys (lang_a, lang_b)."""
    shares = {lang: activation_shares(count) for lang, count in counts.items()}
    entropies = {lang: entropy(share) for lang, share in shares.items()}
    return {
        (a, b): np.maximum(entropy((shares[a] + shares[b]) / 2) - (entropies[a] + entropies[b]) / 2, 0)
        for a, b in combinations(sorted(counts), 2)
    }


def specificity(counts: Counts, top_k: int) -> Values:  # noqa: ARG001
    """Return a over the mean of a over languages (1e-8 where that is 0); keys (lang, expert)."""
    shares = {lang: activation_shares(count) for lang, count in counts.items()}
    mean = mean_share(shares.values())
    found: Values = {}
    for lang, share in shares.items():
        for expert, values in enumerate((share / mean).T):
            found[lang, expert] = values
    return found


def routing_entropy(counts: Counts, top_k: int) -> Values:  # noqa: ARG001
    """Return the entropy of activation shares, nats; keys (lang,)."""
    return {(lang,): entropy(activation_shares(count)) for lang, count in counts.items()}


def normalized_divergence(p: Floats, q: Floats) -> Floats:
    """Return JSD / (ln E - (H(p) + H(q)) / 2) of each row of p and q [S, E], 0 where the denominator is below 1e-8."""
    halves = (entropy(p) + entropy(q)) / 2
    jsd = np.maximum(entropy((p + q) / 2) - halves, 0)
    return part_of_room(jsd, np.log(p.shape[-1]) - halves)


def part_of_room(jsd: Floats, room: Floats) -> Floats:
    """Return JSD as a part of what the two entropies leave room for, at most 1; 0 where the room is below 1e-8."""
    return np.where(room < 1e-8, 0, np.minimum(jsd / np.where(room < 1e-8, 1, room), 1))


def activation_shares(counts: Floats) -> Floats:
    """Return p of counts [R, E]; NaN in a row of zeros."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def mean_share(shares: Any) -> Floats:
    """Return the mean of some languages' shares [R, E]; tiny where it is 0, as the view's 1e-8 for a is."""
    every = list(shares)
    mean = sum(every[1:], every[0]) / len(every)
    return np.where(mean == 0, 1e-8, mean)


def entropy(shares: Floats) -> Floats:
    """Return H of each row [..., E], nats."""
    return -np.einsum("...e,...e->...", shares, np.log(np.maximum(shares, LEAST)))  # type: ignore[no-any-return]


def expert_set(counts: Floats, size: int) -> npt.NDArray[np.bool_]:
    """Return which experts are the `size` most used ones of each row, ties to the lower expert."""
    experts = counts.shape[1]
    if size == experts:
        return np.ones(counts.shape, dtype=bool)
    kind: type[np.signedinteger[Any]] = (
        np.int32 if counts.max() < (1 << 31) // experts - 1 else np.int64
    )  # half the width takes half the time
    keys = counts.astype(kind) * experts + np.arange(experts - 1, -1, -1, dtype=kind)  # in a row all different
    return keys >= np.partition(keys, experts - size, axis=1)[:, experts - size, None]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Metric:
    """A metric that can be resampled.

    - view: the view it is a column of; keys: the view's columns that say what a value is about, run and layer left
      out; column: the one that holds the value
    - alternative: which way the null model looks: whether a value is greater or less than chance, or either
    - of_counts: its values from counts, top-k and the metric's own arguments; None where it is made of profiles
    """

    view: str
    keys: tuple[str, ...]
    column: str
    alternative: Alternative
    of_counts: Callable[..., Values] | None = None

    @property
    def compares_pairs(self) -> bool:
        """Return whether a value is about two languages."""
        return self.keys[:2] == ("lang_a", "lang_b")


METRICS = {
    "jaccard": Metric("jaccard", ("lang_a", "lang_b"), "jaccard", "less", jaccard),
    "divergence": Metric("divergence", ("lang_a", "lang_b"), "jsd", "greater", divergence),
    "specificity": Metric("specificity", ("lang", "expert"), "specificity", "two-sided", specificity),
    "routing_entropy": Metric("routing_entropy", ("lang",), "entropy", "two-sided", routing_entropy),
    "pivot_similarity": Metric("pivot_similarity", ("lang",), "similarity", "greater"),
    "pivot_excess": Metric("pivot_similarity", ("lang",), "excess", "greater"),
}
