"""Requests of an engine recorded into a store, in whatever steps they come: without vLLM."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import CaptureError
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.tracer.worker.recorder import LANGUAGE_KEY, RecordingSettings, RequestRecorder
from moetrace.tracer.worker.steps import Step, StepRows
from tests.support.examples import examples
from tests.support.steps import request
from tests.support.stores import make_record

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, EXPERTS, TOP_K = [1, 2, 5], 8, 2


class Requests:
    """Requests whose routing is known, run in whatever steps."""

    def __init__(self, lengths: list[int], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        total = sum(lengths)
        self.lengths, self.starts = lengths, np.cumsum(lengths) - lengths
        logits = rng.normal(size=(len(LAYERS), total, EXPERTS))
        self.probabilities = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
        self.experts = np.argsort(-self.probabilities, axis=-1)[..., :TOP_K].astype(np.int16)
        weights = np.take_along_axis(self.probabilities, self.experts.astype(int), -1)
        self.weights = weights / weights.sum(-1, keepdims=True)
        self.token_ids = rng.integers(0, 99, total).astype(np.int32)

    def step(self, recorder: RequestRecorder, rows: list[tuple[str, int, int, int]]) -> None:
        """Give the recorder a step of rows (request, number of its text, start, count)."""
        index = np.concatenate([np.arange(count) + self.starts[n] + start for _, n, start, count in rows])
        counts = np.array([count for *_, count in rows])
        sums = np.add.reduceat(self.probabilities[:, index], np.cumsum(counts) - counts, axis=1)
        experts, weights = (array[:, index].transpose(0, 2, 1) for array in (self.experts, self.weights))
        step = Step(experts, weights, sums, self.token_ids[index])
        recorder.add(step, StepRows([row[0] for row in rows], np.array([row[2] for row in rows]), counts))


def recorder_of(path: Path, **live: Any) -> RequestRecorder:
    fields = RecordingSettings(str(path), asdict(make_record(moe_layers=LAYERS)), **live)
    return RequestRecorder({"moe_layers": LAYERS, "num_experts": EXPERTS, "top_k": TOP_K}, asdict(fields))


@given(st.data())
@examples(40)
def test_any_schedule_of_requests_is_recorded_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("live")
    lengths = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=8))
    truth, recorder = Requests(lengths), recorder_of(root, shard_tokens=data.draw(st.integers(1, 20)))
    begun: set[int] = set()
    done = [0] * len(lengths)
    steps = 0
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        waiting = [n for n, length in enumerate(lengths) if done[n] < length]
        rows = []
        for n in data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True)):
            if n not in begun:
                assert recorder.begin(request(f"r{n}", {LANGUAGE_KEY: f"l{n % 2}"}))
                begun.add(n)
            if done[n] and steps < 30 and data.draw(st.booleans()):
                done[n] = 0  # preempted: it starts again
            count = data.draw(st.integers(1, lengths[n] - done[n]))
            rows.append((f"r{n}", n, done[n], count))
            done[n] += count
        truth.step(recorder, rows)
        steps += 1
        for _, n, _, _ in rows:
            if done[n] == lengths[n] and data.draw(st.booleans()):
                recorder.end(f"r{n}")
    summary = recorder.close()
    assert summary["failure"] is None
    assert (summary["sequences"], summary["tokens"]) == (len(lengths), sum(lengths))
    db = connect(root)
    found = db.sql(
        """
        select text_id, position, layer, token_id, list(expert order by rank) as experts
        from routes join tokens using (run, lang, shard, token) join sequences using (run, lang, shard, seq)
        group by all
        """
    ).pl()
    assert len(found) == sum(lengths) * len(LAYERS)
    for text, position, layer, token_id, experts in found.iter_rows():
        at = truth.starts[int(text[1:])] + position
        assert token_id == truth.token_ids[at]
        assert experts == truth.experts[LAYERS.index(layer), at].tolist()
    profiles = db.sql(
        "select text_id, layer, expert, probability from profiles join sequences using (lang, shard, seq)"
    )
    for text, layer, expert, probability in profiles.fetchall():
        n = int(text[1:])
        span = slice(truth.starts[n], truth.starts[n] + lengths[n])
        assert abs(probability - truth.probabilities[LAYERS.index(layer), span, expert].mean()) < 1e-6


def test_a_run_that_goes_on_numbers_shards_and_texts_after_those_it_has(tmp_path: Path) -> None:
    for session in range(2):
        truth, recorder = Requests([3, 4], seed=session), recorder_of(tmp_path, lang="swh_Latn")
        for number in range(2):
            recorder.begin(request(f"{session}-{number}"))
        truth.step(recorder, [(f"{session}-0", 0, 0, 3), (f"{session}-1", 1, 0, 4)])
        recorder.close()
    rows = connect(tmp_path).sql("select shard, seq, text_id from sequences order by seq").fetchall()
    assert rows == [(0, 0, "0-0"), (0, 1, "0-1"), (1, 32768, "1-0"), (1, 32769, "1-1")]


def test_two_recorders_of_one_run_share_its_numbers(tmp_path: Path) -> None:
    recorders = [recorder_of(tmp_path, lang="swh_Latn") for _ in range(2)]
    for session in range(2):
        for number, recorder in enumerate(recorders):
            truth = Requests([3], seed=session)
            recorder.begin(request(f"{session}-{number}"))
            truth.step(recorder, [(f"{session}-{number}", 0, 0, 3)])
            recorder.end(f"{session}-{number}")
            recorder._flush({"swh_Latn"})
    for recorder in recorders:
        recorder.close()
    rows = connect(tmp_path).sql("select shard, seq, text_id from sequences order by seq").fetchall()
    assert [(shard, seq) for shard, seq, _ in rows] == [(n, n * 32768) for n in range(4)]
    assert {text for *_, text in rows} == {"0-0", "0-1", "1-0", "1-1"}
    assert verify(tmp_path).problems == []


def test_finished_requests_are_written_in_time_while_nothing_runs(tmp_path: Path) -> None:
    truth, recorder = Requests([5]), recorder_of(tmp_path, flush_seconds=0.2)
    recorder.begin(request("r", prompt_tokens=3))
    truth.step(recorder, [("r", 0, 0, 5)])
    recorder.end("r")
    deadline = time.monotonic() + 20
    while not Store(tmp_path).commits and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [commit.tokens for commit in Store(tmp_path).commits] == [5]
    assert connect(tmp_path).sql("select tokens, generated from sequences").fetchall() == [(5, 2)]
    recorder.close()


def test_a_request_that_ends_within_its_prompt_is_marked(tmp_path: Path) -> None:
    truth, recorder = Requests([4]), recorder_of(tmp_path)
    recorder.begin(request("r", prompt_tokens=9))
    truth.step(recorder, [("r", 0, 0, 4)])
    recorder.close()
    assert connect(tmp_path).sql("select tokens, truncated from sequences").fetchall() == [(4, True)]


def test_positions_that_a_cache_answered_for_are_noticed(tmp_path: Path) -> None:
    truth, recorder = Requests([8]), recorder_of(tmp_path)
    recorder.begin(request("r"))
    with pytest.raises(CaptureError, match="prefix cache answered"):
        truth.step(recorder, [("r", 0, 4, 4)])
    recorder.close()


def test_a_clients_impossible_language_does_not_stop_the_server(tmp_path: Path) -> None:
    truth, recorder = Requests([2]), recorder_of(tmp_path, lang="eng_Latn")
    recorder.begin(request("r", {LANGUAGE_KEY: "../../etc"}))
    truth.step(recorder, [("r", 0, 0, 2)])
    recorder.close()
    assert [commit.lang for commit in Store(tmp_path).commits] == ["und"]


def test_requests_that_began_before_the_recording_are_left_out(tmp_path: Path) -> None:
    truth, recorder = Requests([3, 4]), recorder_of(tmp_path)
    recorder.begin(request("r1"))
    truth.step(recorder, [("r0", 0, 0, 2)])
    truth.step(recorder, [("r0", 0, 2, 1), ("r1", 1, 0, 4)])
    recorder.close()
    assert connect(tmp_path).sql("select text_id, tokens from sequences").fetchall() == [("r1", 4)]
