"""How permutations are made and counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from moetrace.analytics.uncertainty.permutation import Exchange, p_value, standardised

RNG = np.random.default_rng


def test_every_way_to_count_ties() -> None:
    values = np.array([2.0, 3, 2, 2, 1])  # of four permutations one is more extreme, two as extreme
    assert p_value(values, "greater", "half", RNG(0)) == (1 + 1 + 1) / 5
    assert p_value(values, "greater", "all", RNG(0)) == (1 + 1 + 2) / 5
    assert p_value(values, "less", "all", RNG(0)) == (1 + 1 + 2) / 5
    assert p_value(-values, "two-sided", "all", RNG(0)) == (1 + 1 + 2) / 5
    drawn = [p_value(values, "greater", "random", RNG(seed)) for seed in range(500)]
    assert 1 / 5 <= min(drawn) < 0.25
    assert 0.75 < max(drawn) <= 4 / 5
    assert np.isnan(p_value(np.array([np.nan, 1.0]), "greater", "half", RNG(0)))
    assert p_value(np.array([1.0, np.nan, 0]), "greater", "half", RNG(0)) == 1 / 2


def test_what_differs_by_rounding_is_a_tie() -> None:
    assert p_value(np.array([0.3, 0.1 + 0.2]), "greater", "half", RNG(0)) == 1.5 / 2


def test_p_of_few_values_is_uniform_where_ties_are_random() -> None:
    rng = RNG(1)
    drawn = [p_value(rng.integers(0, 3, 100).astype(float), "greater", "random", rng) for _ in range(600)]
    assert stats.kstest(drawn, "uniform").pvalue > 0.01


def test_a_pair_changes_its_labels_together() -> None:
    own, other = np.eye(4, 6, dtype=np.float32), 10 * np.eye(4, 6, 2, dtype=np.float32)
    exchange = Exchange.of_pairs(np.arange(4), np.arange(4), RNG(3), 300)
    (a, b) = (np.concatenate(found) for found in zip(*exchange.counts(own, other), strict=True))
    assert np.array_equal(a[0], own.sum(axis=0))
    assert np.array_equal(b[0], other.sum(axis=0))
    assert np.array_equal(a + b, np.broadcast_to((own + other).sum(axis=0), a.shape))
    for row, moved in zip(a, exchange.moves, strict=True):
        assert np.array_equal(row, np.where(moved[:, None], other, own).sum(axis=0))
    assert exchange.moves[1:].mean(axis=0) == pytest.approx([0.5] * 4, abs=0.1)


def test_texts_of_their_own_are_dealt_out_as_many_to_each() -> None:
    own, other = np.ones((3, 2), np.float32), np.full((5, 2), 7, np.float32)
    exchange = Exchange.of_texts(3, 5, RNG(1), 200)
    a, b = (np.concatenate(found) for found in zip(*exchange.counts(own, other), strict=True))
    assert a[0].tolist() == [3, 3]
    assert b[0].tolist() == [35, 35]
    assert (exchange.moves.sum(axis=1) == 3).all()
    assert np.array_equal(a + b, np.full(a.shape, 38.0))


def test_counts_that_float32_cannot_add_are_added_exactly() -> None:
    own, other = np.array([[2**24]], np.float32), np.array([[1]], np.float32)
    exchange = Exchange.of_pairs(np.array([0]), np.array([0]), RNG(0), 20)
    for a, b in exchange.counts(own, other):
        assert set(np.concatenate([a, b]).ravel()) == {2**24, 1}


def test_layers_are_compared_in_deviations() -> None:
    values = RNG(0).normal(5, 2, 1000)
    assert standardised(values, "greater") == pytest.approx((values - values.mean()) / values.std())
    assert standardised(values, "less") == pytest.approx((values.mean() - values) / values.std())
    differences = values - 5
    assert standardised(differences, "two-sided") == pytest.approx(abs(differences) / np.sqrt(np.mean(differences**2)))
    assert standardised(np.full(4, 2.0), "greater").tolist() == [0] * 4
