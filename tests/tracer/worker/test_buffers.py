"""What the buffers of a step say of it: rows that were not written, weights as applied, logits of a probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.steps import LAYERS, PROBED, TOKENS, make_buffers, routed_step


@pytest.mark.parametrize(("num_experts", "missing"), [(6, 255), (255, 255), (256, -1), (300, -1), (40_000, -1)])
def test_only_the_rows_of_the_next_step_are_marked_as_not_written(num_experts: int, missing: int) -> None:
    buffers = make_buffers(num_experts=num_experts)
    assert (buffers.ids == missing).all()
    step = routed_step(np.random.default_rng(0), [TOKENS], num_experts)
    step.write(buffers)
    before = buffers.ids.clone()
    assert (before != missing).all()
    buffers.clear(5)
    assert (buffers.ids[:, :, :5] == missing).all()
    assert torch.equal(buffers.ids[:, :, 5:], before[:, :, 5:])


def test_weights_are_scaled_as_their_layer_scales_them() -> None:
    buffers = make_buffers([1.0, 2.5, 1.0])
    step = routed_step(np.random.default_rng(0), [7])
    step.write(buffers)
    want = step.weights.numpy().transpose(0, 2, 1) * np.array([1.0, 2.5, 1.0], dtype=np.float32)[:, None, None]
    assert np.array_equal(buffers.applied(7).numpy(), want)
    into = torch.empty(want.shape)
    assert buffers.applied(7, out=into) is into
    assert np.array_equal(into.numpy(), want)


def test_only_the_first_rows_keep_their_logits() -> None:
    buffers = make_buffers()
    step = routed_step(np.random.default_rng(0), [7])
    step.write(buffers)
    assert buffers.logits.shape[:2] == (LAYERS, PROBED)
    assert torch.equal(buffers.logits, step.logits[:, :PROBED])
