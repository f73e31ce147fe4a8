"""Router probabilities and their sums: the definition, what nobody wants, and steps that are too large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from moetrace.store.errors import CaptureError
from moetrace.tracer.worker.profiles import segment_sums, write_probabilities
from tests.support.steps import EXPERTS, REQUESTS, make_buffers, routed_step


def probabilities(logits: torch.Tensor, scoring: str) -> torch.Tensor:
    found = torch.full(logits.shape, -1.0)
    write_probabilities(logits, scoring, found)
    return found


def test_softmax_probabilities_are_those_of_the_definition() -> None:
    logits = torch.randn(5, EXPERTS, dtype=torch.float64)
    want = logits.exp() / logits.exp().sum(-1, keepdim=True)
    assert torch.allclose(probabilities(logits.float(), "softmax").double(), want, atol=1e-6, rtol=0)


def test_sigmoid_probabilities_are_scores_made_to_sum_to_one() -> None:
    logits = torch.randn(5, EXPERTS, dtype=torch.float64)
    scores = 1 / (1 + (-logits).exp())
    want = scores / scores.sum(-1, keepdim=True)
    assert torch.allclose(probabilities(logits.float(), "sigmoid").double(), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_logits_of_a_narrow_type_are_widened_first(scoring: str) -> None:
    logits = torch.randn(9, EXPERTS).bfloat16()
    assert torch.equal(probabilities(logits, scoring), probabilities(logits.float(), scoring))


def test_segments_may_be_empty() -> None:
    values = torch.arange(12.0).view(6, 2)
    sums = segment_sums(values, torch.tensor([0, 2, 5]), torch.tensor([0, 0, 2, 3]))
    assert sums.tolist() == [[0, 0], [4, 6], [10, 11], [0, 0]]


@pytest.mark.parametrize("static", [False, True])
def test_a_pass_of_nobodys_changes_no_sums(static: bool) -> None:  # noqa: FBT001  a parameter
    buffers, rng = make_buffers(static=static), np.random.default_rng(0)
    step = routed_step(rng, [5, 3])
    buffers.profiles.begin(step.rows, step.token_ids, None)
    step.write(buffers)
    before = buffers.profiles.sums().clone()
    buffers.profiles.idle()
    routed_step(rng, [2, 1]).write(buffers)
    routed_step(rng, [12, 6]).write(buffers)
    step.write(buffers)
    buffers.profiles.begin(step.rows, step.token_ids, None)
    assert torch.equal(buffers.profiles.sums(), before)


@pytest.mark.parametrize("static", [False, True])
def test_more_requests_than_the_engine_promised_are_refused(static: bool) -> None:  # noqa: FBT001
    profiles: Any = make_buffers(static=static).profiles
    step = routed_step(np.random.default_rng(0), [1] * (REQUESTS + 1))
    with pytest.raises(CaptureError, match="a step has 9 requests, but the engine's max_num_seqs is 8"):
        profiles.begin(step.rows, step.token_ids, None)
