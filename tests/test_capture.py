"""Whatever way an engine cuts texts into steps, the same shard comes out, and gaps are noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import CaptureError
from tracer.capture import NOT_WRITTEN, Rows, ShardAssembler, Step

LAYERS, EXPERTS, TOP_K = [1, 3, 5], 7, 2


class Truth:
    """A routing of every position of some texts, to be delivered in steps."""

    def __init__(self, lengths: list[int], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        total = sum(lengths)
        self.lengths, self.starts = lengths, np.cumsum(lengths) - lengths
        self.experts = rng.permuted(np.tile(np.arange(EXPERTS), (len(LAYERS), total, 1)), axis=2)[..., :TOP_K]
        self.weights = rng.random((len(LAYERS), total, TOP_K), dtype=np.float32)
        logits = rng.normal(size=(len(LAYERS), total, EXPERTS)).astype(np.float32)
        self.probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        self.token_ids = rng.integers(0, 1000, total).astype(np.int32)

    def step(self, rows: list[Rows]) -> Step:
        index = np.concatenate([np.arange(r.count) + self.starts[r.index] + r.start for r in rows])
        return Step(
            self.experts[:, index].astype(np.int32),
            self.weights[:, index],
            self.probabilities[:, index],
            self.token_ids[index],
        )


def assembler() -> ShardAssembler:
    return ShardAssembler(LAYERS, EXPERTS, TOP_K, profiles=True)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_any_schedule_with_chunks_mixed_batches_and_preemption_gives_the_same_shard(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    truth, collector = Truth(lengths), assembler()
    collector.open("eng/0", lengths)
    done = [0] * len(lengths)
    steps = 0
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        waiting = [i for i, n in enumerate(lengths) if done[i] < n]
        chosen = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        rows = []
        for i in chosen:
            if done[i] and steps < 40 and data.draw(st.booleans()):
                done[i] = 0  # preempted: it starts again
            count = data.draw(st.integers(1, lengths[i] - done[i]))
            rows.append(Rows("eng/0", i, done[i], count))
            done[i] += count
        steps += 1
        collector.add(truth.step(rows), rows)
    (shard,) = collector.take()
    assert np.array_equal(shard.experts, truth.experts.transpose(1, 0, 2))
    assert np.array_equal(shard.weights, truth.weights.transpose(1, 0, 2))
    assert np.array_equal(shard.token_ids, truth.token_ids)
    means = np.stack(
        [truth.probabilities[:, s : s + n].mean(axis=1) for s, n in zip(truth.starts, lengths, strict=True)]
    )
    assert np.abs(shard.profiles - means).max() < 1e-6
    assert collector.unfinished() == []
    assert collector.take() == []


def test_a_layer_without_rows_is_named() -> None:
    truth, collector = Truth([4]), assembler()
    collector.open("eng/0", [4])
    rows = [Rows("eng/0", 0, 0, 4)]
    step = truth.step(rows)
    step.experts[1] = NOT_WRITTEN
    with pytest.raises(CaptureError, match="layer 3: the tap saw nothing"):
        collector.add(step, rows)


def test_a_single_row_that_nobody_wrote_is_noticed() -> None:
    truth, collector = Truth([4]), assembler()
    collector.open("eng/0", [4])
    rows = [Rows("eng/0", 0, 0, 4)]
    step = truth.step(rows)
    step.experts[2, 3] = NOT_WRITTEN
    with pytest.raises(CaptureError, match="layer 5"):
        collector.add(step, rows)


def test_positions_that_a_cache_answered_for_are_noticed() -> None:
    truth, collector = Truth([8]), assembler()
    collector.open("eng/0", [8])
    rows = [Rows("eng/0", 0, 4, 4)]
    with pytest.raises(CaptureError, match="positions 0 to 3 were never computed"):
        collector.add(truth.step(rows), rows)


def test_rows_of_requests_that_nobody_traces_are_left_out() -> None:
    truth, collector = Truth([3]), assembler()
    collector.open("eng/0", [3])
    mine = Rows("eng/0", 0, 0, 3)
    step = truth.step([mine, mine])
    collector.add(step, [Rows("", 0, 0, 3), mine])
    (shard,) = collector.take()
    assert shard.token_ids.tolist() == truth.token_ids.tolist()


def test_a_shard_with_a_missing_text_is_not_handed_over() -> None:
    truth, collector = Truth([3, 2]), assembler()
    collector.open("eng/0", [3, 2])
    rows = [Rows("eng/0", 0, 0, 3)]
    collector.add(truth.step(rows), rows)
    assert collector.take() == []
    assert collector.unfinished() == ["eng/0"]
