"""Rank correlation of a few languages' numbers, plain and partial, with p-values by permutation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

PERMUTATIONS = 9999


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho over n languages, its two-sided p-value, and the part that is left beside the covariates."""

    n: int
    rho: float
    p: float


def spearman(
    x: Sequence[float], y: Sequence[float], covariates: Sequence[Sequence[float]] = (), seed: int = 0
) -> Correlation:
    """Return the rank correlation of x and y, each less what the covariates' ranks say of it.

    p: of permuting x's residuals over the languages (Freedman & Lane 1983), two-sided, (1 + more extreme) / (1 + all).
    Categories are covariates of 0 and 1. Raises ValueError where the covariates leave nothing to correlate.
    """
    ranked = np.column_stack([np.ones(len(x)), *(stats.rankdata(one) for one in covariates)])
    residuals = [_residual(stats.rankdata(one), ranked) for one in (x, y)]
    if min(np.linalg.norm(one) for one in residuals) < 1e-9:
        raise ValueError("the covariates leave nothing to correlate")
    a, b = (one / np.linalg.norm(one) for one in residuals)
    rho = float(a @ b)
    rng = np.random.default_rng(seed)
    shuffled = np.asarray([_residual(rng.permutation(a), ranked) for _ in range(PERMUTATIONS)])
    shuffled /= np.linalg.norm(shuffled, axis=1, keepdims=True)
    extreme = int((np.abs(shuffled @ b) >= abs(rho) - 1e-12).sum())
    return Correlation(len(x), rho, (1 + extreme) / (1 + PERMUTATIONS))


def indicators(values: Sequence[str]) -> list[list[float]]:
    """Return a covariate of 0 and 1 for each category but the most frequent one; singletons share one."""
    names, counts = np.unique(values, return_counts=True)
    single = {str(name) for name, count in zip(names, counts, strict=True) if count == 1}
    merged = ["another" if value in single else value for value in values]
    names, counts = np.unique(merged, return_counts=True)
    base = names[np.argmax(counts)]
    return [[float(value == name) for value in merged] for name in names if name != base]


def _residual(values: Array, design: Array) -> Array:
    solution, *_ = np.linalg.lstsq(design, values, rcond=None)
    return values - design @ solution
