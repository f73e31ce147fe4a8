"""Whatever way an engine cuts texts into steps, the same shard comes out, and gaps are noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.errors import CaptureError
from moetrace.tracer.plan.token_filter import TokenFilter
from moetrace.tracer.worker import TAG
from moetrace.tracer.worker.assembly import CapturedShard, PlannedShards
from moetrace.tracer.worker.steps import NOT_WRITTEN, KeptRows, Step, StepRows
from tests.support.examples import examples
from tests.support.steps import request

LAYERS, EXPERTS, TOP_K = [1, 3, 5], 7, 2
IDS = 20  # of tokens
NOBODY = "nobody's"


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
        self.token_ids = rng.integers(0, IDS, total).astype(np.int32)

    def step(self, rows: StepRows, counted: KeptRows | None = None) -> Step:
        index = np.concatenate(
            [
                np.arange(count) + self.starts[0 if name == NOBODY else int(name)] + start
                for name, start, count in zip(rows.requests, rows.starts, rows.counts, strict=True)
            ]
        )
        first = np.cumsum(rows.counts) - rows.counts
        probabilities = self.probabilities[:, index]
        if counted is not None:
            counts = counted.at_kept_position & ~np.isin(self.token_ids[index], counted.special)
            probabilities = np.where(counts[:, None], probabilities, 0)
        return Step(
            self.experts[:, index].transpose(0, 2, 1).astype(np.int16),
            self.weights[:, index].transpose(0, 2, 1),
            np.add.reduceat(probabilities, first, axis=1),
            self.token_ids[index],
        )


def rows_of(*rows: tuple[int | None, int, int]) -> StepRows:
    """Rows of the one shard that these tests trace: (text, or None for nobody's; start; count)."""
    requests = [NOBODY if text is None else str(text) for text, _, _ in rows]
    return StepRows(requests, np.array([start for _, start, _ in rows]), np.array([count for _, _, count in rows]))


def assembler() -> PlannedShards:
    made = PlannedShards(LAYERS, EXPERTS, TOP_K, profiles=True)
    assert not made.begin(request(NOBODY))
    assert all(made.begin(request(str(text), {TAG: ["eng/0", text]})) for text in range(6))
    return made


def assert_captured(
    shard: CapturedShard, truth: Truth, lengths: list[int], kept: list[list[int]] | None = None
) -> None:
    """Compare a shard with the truth; `kept`: the positions of each text that a filter keeps."""
    spans = [slice(start, start + length) for start, length in zip(truth.starts, lengths, strict=True)]
    every = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    assert shard.lengths.tolist() == lengths
    assert np.array_equal(shard.token_ids, truth.token_ids[every])
    of_text = [np.arange(length) for length in lengths] if kept is None else [np.array(some, int) for some in kept]
    rows = [start + positions for start, positions in zip(truth.starts, of_text, strict=True)]
    index = np.concatenate(rows)
    if kept is None:
        assert shard.kept is None
    else:
        assert every[shard.kept].tolist() == index.tolist()
    assert np.array_equal(shard.experts, truth.experts[:, index].transpose(0, 2, 1))
    assert np.array_equal(shard.weights, truth.weights[:, index].transpose(0, 2, 1))
    for text, some in enumerate(rows):
        mean = truth.probabilities[:, some].mean(axis=1) if len(some) else 0
        assert np.abs(shard.profiles[:, text] - mean).max() < 1e-6


@given(st.data(), st.booleans())
@examples(120)
def test_any_schedule_with_chunks_mixed_batches_and_preemption_gives_the_same_shard(
    data: st.DataObject,
    filtered: bool,  # noqa: FBT001  a drawn value
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    grown = data.draw(st.booleans())
    generated = [data.draw(st.integers(0, 4)) if grown else 0 for _ in lengths]
    totals = [length + more for length, more in zip(lengths, generated, strict=True)]
    truth, collector = Truth([length + (4 if grown else 0) for length in lengths]), assembler()
    left_out = None
    if filtered:
        special = data.draw(st.lists(st.integers(0, IDS - 1), max_size=8, unique=True))
        left_out = TokenFilter(data.draw(st.booleans()), data.draw(st.integers(0, 3)), tuple(special))
        filtered = bool(left_out)
    collector.open("eng/0", lengths, 4 if grown else 0, left_out)
    done = [0] * len(lengths)
    steps = 0
    while any(d < n for d, n in zip(done, totals, strict=True)):
        waiting = [i for i, n in enumerate(totals) if done[i] < n]
        chosen = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        rows = []
        for i in chosen:
            if done[i] and steps < 40 and data.draw(st.booleans()):
                done[i] = 0  # preempted: it starts again
            count = data.draw(st.integers(1, totals[i] - done[i]))
            rows.append((i, done[i], count))
            done[i] += count
        steps += 1
        counted = collector.kept(rows_of(*rows))
        assert (counted is None) == (not filtered)
        collector.add(truth.step(rows_of(*rows), counted), rows_of(*rows))
        if grown:
            collector.finish([("eng/0", i, totals[i]) for i in chosen if done[i] == totals[i]])
    (shard,) = collector.take()
    kept = [
        [
            position
            for position in range(total)
            if left_out is None
            or not (
                (left_out.prompt_only and position >= length)
                or position < left_out.skip_positions
                or truth.token_ids[start + position] in left_out.special
            )
        ]
        for start, length, total in zip(truth.starts, lengths, totals, strict=True)
    ]
    assert_captured(shard, truth, totals, kept if filtered else None)
    assert collector.unfinished() == []
    assert collector.take() == []


def test_rows_of_nobody_do_not_shift_the_positions_of_others() -> None:
    collector = assembler()
    collector.open("eng/0", [3, 4], 0, TokenFilter(skip_positions=2))
    rows = rows_of((1, 0, 3), (None, 0, 2), (0, 0, 3), (1, 3, 1))
    found = collector.kept(rows)
    assert found is not None
    assert found.at_kept_position[[0, 1, 2]].tolist() == [False, False, True]
    assert found.at_kept_position[[5, 6, 7, 8]].tolist() == [False, False, True, True]


def test_a_layer_without_rows_is_named() -> None:
    truth, collector = Truth([4]), assembler()
    collector.open("eng/0", [4])
    rows = rows_of((0, 0, 4))
    step = truth.step(rows)
    step.experts[1] = NOT_WRITTEN
    with pytest.raises(CaptureError, match="layer 3: the tap saw nothing"):
        collector.add(step, rows)


def test_a_single_row_that_nobody_wrote_is_noticed() -> None:
    truth, collector = Truth([4]), assembler()
    collector.open("eng/0", [4])
    rows = rows_of((0, 0, 4))
    step = truth.step(rows)
    step.experts[2, :, 3] = NOT_WRITTEN
    with pytest.raises(CaptureError, match="layer 5"):
        collector.add(step, rows)


def test_positions_that_a_cache_answered_for_are_noticed() -> None:
    truth, collector = Truth([8]), assembler()
    collector.open("eng/0", [8])
    rows = rows_of((0, 4, 4))
    with pytest.raises(CaptureError, match="positions 0 to 3 were never computed"):
        collector.add(truth.step(rows), rows)


def test_rows_of_requests_that_nobody_traces_are_left_out() -> None:
    truth, collector = Truth([3]), assembler()
    collector.open("eng/0", [3])
    rows = rows_of((None, 0, 3), (0, 0, 3))
    collector.add(truth.step(rows), rows)
    (shard,) = collector.take()
    assert shard.token_ids.tolist() == truth.token_ids.tolist()


def test_a_shard_with_a_missing_text_is_not_handed_over() -> None:
    truth, collector = Truth([3, 2]), assembler()
    collector.open("eng/0", [3, 2])
    rows = rows_of((0, 0, 3))
    collector.add(truth.step(rows), rows)
    assert collector.take() == []
    assert collector.unfinished() == ["eng/0"]


def test_positions_beyond_the_end_of_a_text_are_noticed() -> None:
    truth, collector = Truth([3, 3]), assembler()
    collector.open("eng/0", [3, 3])
    with pytest.raises(CaptureError, match="text 0: position 3 was computed, the text has 3"):
        collector.add(truth.step(rows_of((0, 0, 4))), rows_of((0, 0, 4)))


def test_a_text_computed_again_from_its_middle_would_spoil_its_profile() -> None:
    truth, collector = Truth([8]), assembler()
    collector.open("eng/0", [8])
    collector.add(truth.step(rows_of((0, 0, 6))), rows_of((0, 0, 6)))
    with pytest.raises(CaptureError, match="computed again from position 4"):
        collector.add(truth.step(rows_of((0, 4, 4))), rows_of((0, 4, 4)))


def test_a_step_with_more_tokens_than_rows_is_refused() -> None:
    truth, collector = Truth([8]), assembler()
    collector.open("eng/0", [8])
    with pytest.raises(CaptureError, match="a step of 6 tokens has 5 rows"):
        collector.add(truth.step(rows_of((0, 0, 6))), rows_of((0, 0, 5)))
