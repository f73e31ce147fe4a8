"""The bound that `make bench-store` holds bytes against."""

from __future__ import annotations

from itertools import combinations
from math import comb, factorial, log2

import numpy as np
import pytest

from moetrace.store.format.weights import round_weights
from tests.benchmarks.order0 import order0_bytes, set_bits


@pytest.mark.parametrize(("experts", "top_k"), [(8, 1), (8, 2), (64, 6), (128, 8), (4, 4)])
def test_experts_chosen_equally_often_cost_the_logarithm_of_the_number_of_sets(experts: int, top_k: int) -> None:
    assert set_bits(np.full(experts, top_k / experts)) == pytest.approx(log2(comb(experts, top_k)))


def test_one_expert_a_token_costs_the_entropy_of_the_ids() -> None:
    frequency = np.array([0.5, 0.25, 0.125, 0.125, 0])
    assert set_bits(frequency) == pytest.approx(1.75)


def test_experts_that_are_always_or_never_chosen_cost_nothing() -> None:
    assert set_bits(np.array([1, 0.5, 0.25, 0.25, 0])) == pytest.approx(1.5)
    assert set_bits(np.array([1.0, 0, 1])) == 0


def test_no_sets_of_the_same_frequencies_are_more_random() -> None:
    rng = np.random.default_rng(0)
    sets = np.array([[expert in members for expert in range(6)] for members in combinations(range(6), 3)])
    probability = rng.dirichlet(np.ones(len(sets)))
    assert set_bits(probability @ sets) >= -(probability @ np.log2(probability))
    odds = rng.lognormal(size=6)
    probability = np.where(sets, odds, 1).prod(axis=1)
    probability /= probability.sum()
    assert set_bits(probability @ sets) == pytest.approx(-(probability @ np.log2(probability)), abs=1e-5)


def test_a_layer_costs_its_sets_and_the_entropy_of_its_weights() -> None:
    rng = np.random.default_rng(0)
    tokens, top_k, experts = 20_000, 4, 64
    taste = rng.normal(size=experts)
    chosen = np.argsort(-(taste + rng.gumbel(size=(tokens, experts))), axis=1)[:, :top_k].T.astype(np.uint8)
    weights = (2.0 ** -rng.integers(0, 4, chosen.shape)).astype(np.float32)
    share = np.bincount(chosen.ravel(), minlength=experts) / chosen.size
    one_by_one = -(share @ np.log2(share)) - log2(factorial(top_k)) / top_k
    assert 8 * order0_bytes(chosen, weights, experts) == pytest.approx(one_by_one + 2, abs=0.1)


def test_splitting_weights_changes_nothing_unless_few_values_of_the_grid_occur() -> None:
    rng = np.random.default_rng(0)
    experts = np.zeros((1, 200_000), dtype=np.uint8)
    captured = round_weights(rng.uniform(0.25, 0.5, experts.shape).astype(np.float32), "f16")
    printed = round_weights(captured.round(3), "f16")
    for weights, gain in ((captured, 0), (printed, np.log2(1024 / 250))):
        joint, split = (8 * order0_bytes(experts, weights, 1, split=split) for split in (False, True))
        assert split - joint == pytest.approx(gain, abs=0.1)
