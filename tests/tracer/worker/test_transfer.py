"""Steps come through the GPU's way of travelling as they come through the CPU's; it runs here on stand-in streams."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.tracer.worker.buffers import router_probabilities
from moetrace.tracer.worker.steps import NOT_WRITTEN, KeptRows
from moetrace.tracer.worker.transfer import SLOTS, DirectTransfer, StreamTransfer
from tests.support.examples import examples
from tests.support.steps import make_buffers, run_step


class LateEvent:
    """An event that has happened only once somebody waited for it."""

    def __init__(self) -> None:
        self.waited = False

    def query(self) -> bool:
        return self.waited

    def synchronize(self) -> None:
        self.waited = True


class Streams:
    """What CudaStreams offers, on a machine without a GPU; it keeps the order of the calls."""

    pinned = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def event(self) -> LateEvent:
        return LateEvent()

    def record_main(self, _event: Any) -> None:
        self.calls.append("record main")

    def record_side(self, event: Any) -> None:
        event.waited = False
        self.calls.append("record side")

    def main_waits(self, _event: Any) -> None:
        self.calls.append("main waits")

    def side_waits(self, _event: Any) -> None:
        self.calls.append("side waits")

    def on_side(self) -> Any:
        return nullcontext()


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=6), st.integers(0, 99))
@examples(40)
def test_both_ways_deliver_the_same_steps_in_order(steps: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    buffers = make_buffers([1.0, 2.5, 1.0])
    direct, streamed = DirectTransfer(buffers), StreamTransfer(buffers, Streams())
    expected, found = [], []

    def keep(transfer: Any, into: list[Any], *, wait: bool) -> None:
        for rows, step in transfer.receive(wait=wait):
            arrays = (step.experts, step.weights, step.probability_sums, step.token_ids)
            into.append((rows, [array.copy() for array in arrays]))

    for counts in steps:
        streamed.before_forward(sum(counts))
        rows, token_ids = run_step(buffers, rng, counts)
        direct.send(rows, token_ids)
        keep(direct, expected, wait=False)
        streamed.send(rows, token_ids)
        keep(streamed, found, wait=False)
        assert len(expected) - len(found) <= SLOTS, "more steps are under way than there are slots"
    keep(streamed, found, wait=True)
    assert len(found) == len(expected) == len(steps)
    for (rows, arrays), (want_rows, want) in zip(found, expected, strict=True):
        assert rows is want_rows
        for array, right in zip(arrays, want, strict=True):
            assert np.allclose(array, right, atol=1e-6, rtol=0)


def test_sums_are_those_of_the_requests_own_rows() -> None:
    buffers = make_buffers()
    rows, token_ids = run_step(buffers, np.random.default_rng(0), [5, 1, 7])
    transfer = DirectTransfer(buffers)
    transfer.send(rows, token_ids)
    ((_, step),) = transfer.receive(wait=False)
    probabilities = router_probabilities(buffers.logits, "softmax").numpy()
    want = np.stack([probabilities[:, a:b].sum(axis=1) for a, b in [(0, 5), (5, 6), (6, 13)]], axis=1)
    assert np.abs(step.probability_sums - want).max() < 1e-5


@pytest.mark.parametrize("made", [DirectTransfer, lambda buffers: StreamTransfer(buffers, Streams())])
@pytest.mark.parametrize("counts", [[5, 1, 7, 2], [1, 1, 1, 1]])
def test_rows_that_are_left_out_are_not_in_the_sums_and_all_else_stays(made: Any, counts: list[int]) -> None:
    buffers, rng = make_buffers(), np.random.default_rng(1)
    rows, token_ids = run_step(buffers, rng, counts)
    tokens, ids = sum(counts), token_ids.numpy()
    at_kept, special = rng.random(tokens) < 0.7, tuple(range(0, 99, 3))
    at_kept[:1] = False
    transfer = made(buffers)
    found = []
    for kept in (None, KeptRows(at_kept, ()), KeptRows(at_kept, special)):
        transfer.send(rows, token_ids, kept)
        ((_, step),) = transfer.receive(wait=True)
        found.append(
            [np.array(values) for values in (step.experts, step.weights, step.token_ids, step.probability_sums)]
        )
    probabilities = router_probabilities(buffers.logits, "softmax").numpy()[:, :tokens]
    counted = [np.ones(tokens, bool), at_kept, at_kept & ~np.isin(ids[:tokens], special)]
    assert len({mask.tobytes() for mask in counted}) == 3
    starts = np.cumsum(counts) - counts
    for mask, (*captured, sums) in zip(counted, found, strict=True):
        spans = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
        want = np.stack([probabilities[:, span][:, mask[span]].sum(axis=1) for span in spans], axis=1)
        assert np.abs(sums - want).max() < 1e-5
        assert all(np.array_equal(one, other) for one, other in zip(captured, found[0][:3], strict=True))


def test_the_device_waits_for_the_last_reading_before_rows_are_cleared() -> None:
    streams, buffers = Streams(), make_buffers()
    transfer = StreamTransfer(buffers, streams)
    transfer.before_forward(4)
    assert (buffers.ids[:, :, :4] == NOT_WRITTEN).all()
    rows, token_ids = run_step(buffers, np.random.default_rng(0), [4])
    streams.calls.clear()
    transfer.send(rows, token_ids)
    assert streams.calls == ["record main", "side waits", "record side", "record side"]
    streams.calls.clear()
    transfer.before_forward(4)
    assert streams.calls == ["main waits"]


def test_a_third_step_needs_a_received_one() -> None:
    buffers = make_buffers()
    transfer = StreamTransfer(buffers, Streams())
    rows, token_ids = run_step(buffers, np.random.default_rng(0), [4])
    for _ in range(SLOTS):
        transfer.send(rows, token_ids)
    with pytest.raises(RuntimeError, match="both slots"):
        transfer.send(rows, token_ids)
    assert len(list(transfer.receive(wait=False))) == 1, "no more than what makes a slot free"
