"""Permutation tests: exchanging what makes no difference under a hypothesis, and counting what is as extreme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.analytics.uncertainty.statistics import Alternative, Floats

Ties = Literal["half", "random", "all"]

ROWS_AT_ONCE = 128  # of replicates: what is computed of them stays in a processor's cache
EXACT = 1 << 24  # float32 holds every whole number below it
SAME = 1e-12  # relative: what differs by the order of a sum alone is the same


def check_ties(ties: str) -> None:
    """Raise MoetraceError for a way to count ties that there is not."""
    if ties not in get_args(Ties):
        raise MoetraceError(f"ties '{ties}': pass one of {', '.join(get_args(Ties))}")


@dataclass(frozen=True)
class Exchange:
    """How the labels of two languages' texts are exchanged, the same in every layer.

    - rows, other_rows: intp [S], the texts that take part, of each language
    - moves: bool [1 + R, S] for translations, whether each pair changes its labels; bool [1 + R, S + S'] for texts of
      their own, whether each of both languages' texts is called the first language's. The first row changes nothing
    """

    rows: npt.NDArray[np.intp]
    other_rows: npt.NDArray[np.intp]
    moves: npt.NDArray[np.bool_]
    paired: bool

    @classmethod
    def of_pairs(
        cls, rows: npt.NDArray[np.intp], other_rows: npt.NDArray[np.intp], rng: np.random.Generator, times: int
    ) -> Exchange:
        """Return `times` ways to exchange the labels of texts and their translations, each pair for itself."""
        bits = np.frombuffer(rng.bytes((1 + times) * -(-len(rows) // 8)), dtype=np.uint8).reshape(1 + times, -1)
        moves = np.unpackbits(bits, axis=1, count=len(rows)).view(bool)
        moves[0] = False
        return cls(rows, other_rows, moves, paired=True)

    @classmethod
    def of_texts(cls, count: int, other_count: int, rng: np.random.Generator, times: int) -> Exchange:
        """Return `times` ways to deal the texts of two languages out again, as many to each as it has."""
        first = np.arange(count + other_count) < count
        moves = rng.permuted(np.broadcast_to(first, (1 + times, len(first))), axis=1)
        moves[0] = first
        return cls(np.arange(count), np.arange(other_count), moves, paired=False)

    @property
    def texts(self) -> int:
        """Return how many texts take part; a text and its translation are one."""
        return int(self.moves.shape[1])

    def counts(self, own: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> Iterator[tuple[Floats, Floats]]:
        """Yield the counts of both languages, [some of 1 + R, E] each, from those of their texts [texts, E]."""
        own, other = own[self.rows], other[self.other_rows]
        total = own.sum(axis=0, dtype=np.float64) + other.sum(axis=0, dtype=np.float64)
        kind = np.float32 if total.max() < EXACT else np.float64
        if self.paired:
            step, start = other.astype(kind) - own.astype(kind), own.sum(axis=0, dtype=np.float64)
        else:
            step, start = np.concatenate([own, other]).astype(kind), np.zeros(len(total))
        moved = self.moves.astype(kind) @ step
        for first in range(0, len(moved), ROWS_AT_ONCE):
            counts = start + moved[first : first + ROWS_AT_ONCE]
            yield counts, total - counts


def p_value(values: Floats, alternative: Alternative, ties: Ties, rng: np.random.Generator) -> float:
    """Return the chance of a value as extreme as the first of `values` [1 + R], the others its null.

    (1 + more extreme + as extreme x how ties count) / (1 + R): the value itself always counts (Phipson & Smyth 2010);
    others as extreme count half, all, or at random, which alone makes p uniform where values are few. NaN for a NaN.
    """
    value, null = towards(values[0], alternative), towards(values[1:], alternative)
    null = null[~np.isnan(null)]
    if np.isnan(value) or not len(null):
        return np.nan
    near = SAME * max(abs(float(value)), float(np.abs(null).max()))
    more = int(np.sum(null > value + near))
    tied = int(np.sum(null >= value - near)) - more
    counted = {"half": 1 + tied / 2, "all": 1 + tied, "random": (1 + tied) * rng.random()}[ties]
    return (more + counted) / (1 + len(null))


def standardised(values: Floats, alternative: Alternative) -> Floats:
    """Return how extreme each of `values` [1 + R] is, in deviations of them all: comparable between layers."""
    with np.errstate(invalid="ignore"):
        if alternative == "two-sided":
            spread = np.sqrt(np.nanmean(values**2)) if not np.isnan(values).all() else np.nan
            extreme = np.abs(values)
        else:
            spread = np.nanstd(values) if not np.isnan(values).all() else np.nan
            extreme = towards(values, alternative) - np.nanmean(towards(values, alternative))
    return extreme / spread if spread > 0 else np.where(np.isnan(values), np.nan, 0.0)


def towards(values: Floats, alternative: Alternative) -> Floats:
    """Return values so that larger is more extreme; two-sided ones are differences, of which 0 is none."""
    return {"greater": values, "less": -values, "two-sided": np.abs(values)}[alternative]
