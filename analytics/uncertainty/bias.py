"""What a plug-in entropy or divergence is wrong by, because shares are estimated from a number of texts.

The delta method: E[H(p^)] is H(p) - 1/2 sum_e V(p_e) / p_e to the second order (Miller, 1955, with the variance over
texts in place of the multinomial one: tokens of a text are no independent draws). Terms of experts that were never used
are 0. The jackknife (Quenouille, 1956) sees the bias in what leaving texts out changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from moetrace.analytics.uncertainty.statistics import Floats


def residuals(counts: Floats) -> Floats:
    """Return (c_ie - p_e t_i) / T of counts [S, E] by text: what each text moves each share by, [S, E]."""
    decisions = counts.sum(axis=1)
    total = decisions.sum()
    return (counts - np.outer(decisions, counts.sum(axis=0) / total)) / total  # type: ignore[no-any-return]


def share_variance(moved: Floats) -> Floats:
    """Return V(p_e), the variance of a ratio of sums over S texts, from `residuals` [S, E]; NaN for one text."""
    return _unbiased(len(moved)) * np.einsum("se,se->e", moved, moved)  # type: ignore[no-any-return]


def share_covariance(moved: Floats, others: Floats) -> Floats:
    """Return C_e, the covariance of two languages' shares, from the `residuals` [S, E] of the S texts both have."""
    return _unbiased(len(moved)) * np.einsum("se,se->e", moved, others)  # type: ignore[no-any-return]


def entropy_bias(share: Floats, variance: Floats) -> float:
    """Return by how much a plug-in entropy is too small: 1/2 sum_e V(p_e) / p_e, nats."""
    return float(_ratio(variance, share).sum()) / 2


def divergence_bias(p: Floats, q: Floats, variance_p: Floats, variance_q: Floats) -> float:
    """Return by how much a plug-in JSD of two independent samples is too large, nats.

    1/2 sum_e [V(p_e) (1 / (2 p_e) - 1 / (4 m_e)) + V(q_e) (1 / (2 q_e) - 1 / (4 m_e))], m = (p + q) / 2
    """
    of_halves = (entropy_bias(p, variance_p) + entropy_bias(q, variance_q)) / 2
    return of_halves - float(_ratio(variance_p + variance_q, (p + q) / 2).sum()) / 8


def covariance_bias(p: Floats, q: Floats, covariance: Floats) -> float:
    """Return what `divergence_bias` is too large by where the texts are translations: sum_e C_e / (4 m_e), nats."""
    return float(_ratio(covariance, (p + q) / 2).sum()) / 4


def jackknife_bias(value: float, left_out: Floats) -> float:
    """Return the bias of a value by its values [J] with one of J parts left out: (J - 1) (their mean - value)."""
    return (len(left_out) - 1) * (float(left_out.mean()) - value)


def _unbiased(texts: int) -> float:
    return texts / (texts - 1) if texts > 1 else np.nan


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.where(under > 0, over / np.where(under > 0, under, 1), 0)
