"""Steps come through the GPU's way of travelling as they come through the CPU's; it runs here on stand-in streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moetrace.tracer.worker.memory import SLOTS
from moetrace.tracer.worker.steps import NOT_WRITTEN, KeptRows
from moetrace.tracer.worker.transfer import DirectTransfer, StreamTransfer
from tests.support.examples import examples
from tests.support.steps import RoutedStep, make_buffers, routed_step
from tests.support.streams import Streams

if TYPE_CHECKING:
    from moetrace.tracer.worker.buffers import StepBuffers
    from moetrace.tracer.worker.transfer import Transfer


def direct(**made: Any) -> tuple[StepBuffers, Transfer]:
    buffers = make_buffers(**made)
    return buffers, DirectTransfer(buffers)


def streamed(**made: Any) -> tuple[StepBuffers, Transfer]:
    buffers = make_buffers(**made, static=True)
    return buffers, StreamTransfer(buffers, Streams())


def ran(way: tuple[StepBuffers, Transfer], step: RoutedStep, kept: KeptRows | None = None) -> None:
    """Run a step as the worker's tap does."""
    buffers, transfer = way
    transfer.before_forward(step.rows, step.token_ids, kept)
    step.write(buffers)
    transfer.send()


def arrays(way: tuple[StepBuffers, Transfer]) -> list[tuple[Any, list[Any]]]:
    return [
        (rows, [np.array(each) for each in (step.experts, step.weights, step.token_ids, step.probability_sums)])
        for rows, step in way[1].receive()
    ]


@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=6),
    st.sampled_from(["softmax", "sigmoid"]),
    st.integers(0, 99),
)
@examples(40)
def test_both_ways_deliver_the_same_steps_in_order(steps: list[list[int]], scoring: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (make(scales=[1.0, 2.5, 1.0], scoring=scoring) for make in (direct, streamed))
    expected: list[Any] = []
    found: list[Any] = []
    for counts in steps:
        step = routed_step(rng, counts)
        ran(one, step)
        expected.extend(arrays(one))
        ran(other, step)
        if len(expected) - len(found) == SLOTS or rng.random() < 0.5:
            found.extend(arrays(other))
    found += arrays(other)
    assert len(found) == len(expected) == len(steps)
    for (rows, values), (want_rows, want) in zip(found, expected, strict=True):
        assert rows is want_rows
        for array, right in zip(values, want, strict=True):
            assert array.dtype == right.dtype
            assert np.allclose(array, right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [direct, streamed])
@pytest.mark.parametrize("num_experts", [6, 255, 256, 300])
def test_every_id_comes_through_in_the_narrowest_type_that_holds_it(make: Any, num_experts: int) -> None:
    way = make(num_experts=num_experts)
    step = routed_step(np.random.default_rng(2), [5, 1, 7], num_experts)
    step.ids[0, 0, 0] = num_experts - 1
    ran(way, step)
    ((_, (experts, *_)),) = arrays(way)
    assert experts.dtype == (np.uint8 if num_experts < 256 else np.int16)
    assert np.array_equal(experts, step.ids.numpy().transpose(0, 2, 1))


@pytest.mark.parametrize("make", [direct, streamed])
@pytest.mark.parametrize("counts", [[5, 1, 7, 2], [1] * 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_those_of_the_requests_own_rows_that_are_kept(
    make: Any, counts: list[int], dtype: torch.dtype
) -> None:
    way, rng = make(), np.random.default_rng(1)
    step = routed_step(rng, counts)
    step = RoutedStep(step.rows, step.token_ids, step.ids, step.weights, step.logits.to(dtype))
    tokens, ids = sum(counts), step.token_ids.numpy()
    at_kept, special = rng.random(tokens) < 0.7, tuple(range(0, 99, 3))
    at_kept[:1] = False
    found = []
    for kept in (None, KeptRows(at_kept, ()), KeptRows(at_kept, special)):
        ran(way, step, kept)
        found += [values for _, values in arrays(way)]
    logits = step.logits.double().numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    counted = [np.ones(tokens, bool), at_kept, at_kept & ~np.isin(ids[:tokens], special)]
    assert len({mask.tobytes() for mask in counted}) == 3
    starts = np.cumsum(counts) - counts
    for mask, (*captured, sums) in zip(counted, found, strict=True):
        spans = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
        want = np.stack([probabilities[:, span][:, mask[span]].sum(axis=1) for span in spans], axis=1)
        assert np.abs(sums - want).max() < 1e-5
        assert all(np.array_equal(one, other) for one, other in zip(captured, found[0][:3], strict=True))


def test_sums_on_a_cpu_are_bit_for_bit_additions_in_the_order_of_the_rows() -> None:
    way, counts = direct(), [5, 1, 7, 2]
    step = routed_step(np.random.default_rng(3), counts)
    ran(way, step)
    ((_, (*_, sums)),) = arrays(way)
    probabilities = torch.softmax(step.logits, -1)
    owner = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    want = torch.zeros(len(sums), len(counts), sums.shape[2]).index_add_(1, owner, probabilities)
    assert np.array_equal(sums, want.numpy())


def test_the_device_waits_for_the_last_reading_before_rows_are_cleared() -> None:
    streams, buffers = Streams(), make_buffers(static=True)
    transfer = StreamTransfer(buffers, streams)
    step = routed_step(np.random.default_rng(0), [4])
    transfer.before_forward(step.rows, step.token_ids)
    assert (buffers.ids[:, :, :4] == torch.tensor(NOT_WRITTEN).to(buffers.ids.dtype)).all()
    step.write(buffers)
    streams.calls.clear()
    transfer.send()
    assert streams.calls == ["record main", "side waits", "record side", "record side"]
    streams.calls.clear()
    transfer.before_forward(step.rows, step.token_ids)
    assert streams.calls == ["main waits"]


def test_a_third_step_needs_a_received_one() -> None:
    way = streamed()
    step = routed_step(np.random.default_rng(0), [4])
    for _ in range(SLOTS):
        ran(way, step)
    with pytest.raises(RuntimeError, match="every slot"):
        ran(way, step)
    next(received := way[1].receive())
    with pytest.raises(RuntimeError, match="every slot"):
        ran(way, step)
    next(received)
    ran(way, step)
    assert len(list(received)) == 0, "what was sent meanwhile is not the next one's"
    assert len(arrays(way)) == 1
