"""The rank order of a token's experts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.weights import MANTISSA_BITS, round_weights
from moetrace.store.shard.ranking import LayerRanking
from tests.support.examples import examples


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (2, 2), (5, 3), (8, 8), (256, 4), (257, 4), (9000, 2)]),
    st.integers(1, 40),
    st.sampled_from(list(MANTISSA_BITS)),
)
@examples(60)
def test_ranks_fall_by_rounded_weight_and_rise_by_expert_where_weights_are_equal(
    seed: int, shape: tuple[int, int], tokens: int, precision: str
) -> None:
    size, top_k = shape
    rng = np.random.default_rng(seed)
    experts = np.stack([rng.choice(size, top_k, replace=False) for _ in range(tokens)], axis=1).astype(
        expert_dtype(size)
    )
    weights = rng.choice([0, 1e-30, 0.2, 0.2001, 0.5, 3], (top_k, tokens)).astype(np.float32)
    rounded = round_weights(weights, precision)
    columns = rng.permutation(tokens)
    ranking = LayerRanking(tokens, top_k, size, precision)
    for _ in range(2):  # what one layer leaves behind does not change the next
        ranking.rank(experts, rounded, columns)
        order = np.lexsort((experts[:, columns], -rounded[:, columns]), axis=0)
        assert np.array_equal(ranking.experts, np.take_along_axis(experts[:, columns], order, axis=0))
        assert np.array_equal(ranking.weights, np.take_along_axis(rounded[:, columns], order, axis=0))
