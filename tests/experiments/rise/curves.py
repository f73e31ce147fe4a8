"""What two ways to train are worth to each other: gain at equal damage, the area between curves, tests over seeds.

A training is a curve of points (damage, gain): damage is by how much the mean loss of other languages rose, gain by how
much the target's fell, both in nats a token, from (0, 0) on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

GRID = 401


@dataclass(frozen=True)
class Curve:
    """Damage and gain along one training, [points] each."""

    damage: Array
    gain: Array

    @property
    def reach(self) -> float:
        """The largest damage that the training does."""
        return float(np.maximum.accumulate(self.damage)[-1])

    def gain_at(self, damage: Array | float) -> Array:
        """Return the most that was gained before the training did more than that damage; NaN beyond what it does.

        Points are joined by straight lines. Damage that falls again is not undone: the training has done it.
        """
        done = np.maximum.accumulate(np.maximum(self.damage, 0.0))
        best = np.maximum.accumulate(self.gain)
        last = np.append(np.diff(done) > 0, True)  # of points of equal damage: what is gained at no cost
        found = np.interp(damage, done[last], best[last])
        return np.where(np.asarray(damage) <= self.reach + 1e-12, found, np.nan)

    def gain_within(self, damage: float) -> float:
        """Return the most that was gained at that damage or less, also where the training does less."""
        return float(self.gain_at(min(damage, max(self.reach, 0.0))))


def curve(losses: Sequence[Sequence[float]], languages: Sequence[str], target: str, others: Sequence[str]) -> Curve:
    """Return the curve of a training from its losses, [points, languages]; the damage is that of `others`."""
    table = np.asarray(losses, dtype=np.float64)
    places = [languages.index(lang) for lang in others]
    mean = table[:, places].mean(axis=1)
    own = table[:, languages.index(target)]
    return Curve(mean - mean[0], own[0] - own)


def area_between(ours: Curve, theirs: Curve) -> float:
    """Return by how much our gain is above theirs, nats: the mean over the damage that both trainings do."""
    reach = min(ours.reach, theirs.reach)
    if reach <= 0:
        return float("nan")
    grid = np.linspace(0.0, reach, GRID)
    difference = ours.gain_at(grid) - theirs.gain_at(grid)
    return float(np.trapezoid(difference, grid) / reach)


@dataclass(frozen=True)
class Paired:
    """A paired comparison over seeds.

    mean: of the differences; interval: of 95 %, Student's; t_p: of the paired t-test; flip_p: of the exact test that
    flips the signs of the differences (two-sided, all 2^n of them; 2 / 2^n is the least it can be)
    """

    n: int
    mean: float
    interval: tuple[float, float]
    t_p: float
    flip_p: float


def paired(differences: Sequence[float]) -> Paired:
    """Compare pairs by their differences; raise ValueError for fewer than two."""
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} pairs: two are needed")
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    test = stats.ttest_1samp(values, 0.0)
    signs = np.asarray(list(product((-1.0, 1.0), repeat=n)))
    flipped = np.abs((signs * values).mean(axis=1))
    flip_p = float((flipped >= abs(mean) - 1e-12).mean())
    return Paired(n, mean, (mean - half, mean + half), float(test.pvalue), flip_p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted.tolist()
