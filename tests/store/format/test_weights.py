"""Rounding to a grid keeps within its bound, and `auto` loses nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.format.weights import MANTISSA_BITS, lies_on, lossless_precision, round_weights


@given(st.lists(st.floats(2.0**-100, 4, width=32), min_size=1, max_size=50), st.sampled_from(list(MANTISSA_BITS)))
def test_rounding_keeps_within_half_a_step_and_keeps_order(values: list[float], precision: str) -> None:
    weights = np.sort(np.array(values, dtype=np.float32))
    rounded = round_weights(weights, precision)
    assert np.all(np.abs(rounded - weights) <= weights * 2.0 ** -(MANTISSA_BITS[precision] + 1))
    assert np.all(np.diff(rounded) >= 0)
    assert lies_on(rounded, precision)
    assert np.array_equal(round_weights(rounded, precision), rounded)


def test_auto_precision_loses_nothing_of_bf16_weights() -> None:
    exact = round_weights(np.random.default_rng(0).random(1000, dtype=np.float32), "bf16")
    assert lossless_precision(exact) == "bf16"
    assert lossless_precision(exact + np.float32(1e-5)) == "f16"
