"""What the buffers of a step say of it: rows that were not written, weights as applied, probabilities."""

from __future__ import annotations

import numpy as np
import torch

from moetrace.tracer.worker.buffers import router_probabilities
from moetrace.tracer.worker.steps import NOT_WRITTEN
from tests.support.steps import EXPERTS, TOKENS, make_buffers, run_step


def test_only_the_rows_of_the_next_step_are_marked_as_not_written() -> None:
    buffers = make_buffers()
    run_step(buffers, np.random.default_rng(0), [TOKENS])
    before = buffers.ids.clone()
    buffers.clear(5)
    assert (buffers.ids[:, :, :5] == NOT_WRITTEN).all()
    assert torch.equal(buffers.ids[:, :, 5:], before[:, :, 5:])


def test_weights_are_scaled_as_their_layer_scales_them() -> None:
    buffers = make_buffers([1.0, 2.5, 1.0])
    run_step(buffers, np.random.default_rng(0), [7])
    scales = np.array([1.0, 2.5, 1.0], dtype=np.float32)[:, None, None]
    assert np.array_equal(buffers.applied(7).numpy(), buffers.weights[:, :, :7].numpy() * scales)


def test_softmax_probabilities_are_those_of_the_definition() -> None:
    logits = torch.randn(5, EXPERTS, dtype=torch.float64)
    want = logits.exp() / logits.exp().sum(-1, keepdim=True)
    assert torch.allclose(router_probabilities(logits, "softmax"), want, atol=1e-12, rtol=0)


def test_sigmoid_probabilities_sum_to_one() -> None:
    sums = router_probabilities(torch.randn(5, EXPERTS), "sigmoid").sum(-1)
    assert torch.allclose(sums, torch.ones(5))
