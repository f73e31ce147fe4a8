"""Confidence intervals from bootstrap replicates."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from moetrace.analytics.uncertainty.statistics import Floats

Interval = Literal["basic", "bca", "percentile"]


def check_interval(interval: str, level: float) -> None:
    """Raise MoetraceError for an interval that there is not, and for a level that is not between 0 and 1."""
    if interval not in get_args(Interval):
        raise MoetraceError(f"interval '{interval}': pass one of {', '.join(get_args(Interval))}")
    if not 0 < level < 1:
        raise MoetraceError(f"level {level:g}: pass a number above 0 and below 1, such as 0.95")


def interval_of(
    interval: Interval, value: float, replicates: Floats, level: float, left_out: Floats | None = None
) -> tuple[float, float]:
    """Return the ends of the interval at `level` of a value with its replicates [R]; NaN replicates do not count.

    - basic: 2 value - the quantiles, mirrored (Davison & Hinkley 1997, eq. 2.10), which takes the bias of plug-in
      values off where percentiles have it twice
    - percentile: the quantiles themselves (Efron 1979)
    - bca: the quantiles shifted by bias and acceleration (Efron 1987); `left_out` are the values [J] with a part of the
      texts left out each time

    NaN where the value or every replicate is NaN.
    """
    known = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not len(known):
        return np.nan, np.nan
    tail = (1 - level) / 2
    if interval == "bca" and left_out is not None:
        lower, upper = np.quantile(known, _bca_levels(value, known, (tail, 1 - tail), left_out))
        return float(lower), float(upper)
    lower, upper = np.quantile(known, (tail, 1 - tail))
    if interval == "basic":
        lower, upper = 2 * value - upper, 2 * value - lower
    return float(lower), float(upper)


def _bca_levels(value: float, replicates: Floats, tails: tuple[float, float], left_out: Floats) -> list[float]:
    """Return the quantiles of the replicates that are the ends of the BCa interval."""
    normal = NormalDist()
    below = np.mean(replicates < value) + np.mean(replicates == value) / 2
    least = 1 / (2 * len(replicates))  # a bias that no replicate shows is not infinite
    bias = normal.inv_cdf(float(np.clip(below, least, 1 - least)))
    pulls = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    spread = float(np.sum(pulls**2)) ** 1.5
    acceleration = float(np.sum(pulls**3)) / (6 * spread) if spread > 0 else 0.0
    found = []
    for tail in tails:
        shifted = bias + normal.inv_cdf(tail)
        room = 1 - acceleration * shifted
        found.append(normal.cdf(bias + shifted / room) if room > 0 else float(shifted > 0))
    return found
