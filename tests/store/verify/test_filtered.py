"""Runs that leave tokens out: what such a run writes verifies, what it could not have written does not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import CaptureError
from moetrace.store.format import layout
from moetrace.store.format.plan_record import FailedRecord, FailedText
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.support.stores import make_record, make_shard, make_world
from tests.support.tampering import column, put, rewritten

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    from moetrace.store.format.records import RunRecord
    from moetrace.store.shard.shard import Shard

SPECIAL = [3, 7, 11, 19, 23, 31]
FILTERS: dict[str, dict[str, Any]] = {
    "prompt_only": {"prompt_only": True, "generation": {"max_new_tokens": 2}},
    "skip_positions": {"skip_positions": 2},
    "skip_special": {"skip_special": True, "engine": {"max_model_len": 64}},
    "all": {
        "prompt_only": True,
        "skip_positions": 1,
        "skip_special": True,
        "generation": {"max_new_tokens": 2},
        "engine": {"max_model_len": 64},
    },
}


def filtered_record(**settings: Any) -> RunRecord:
    record = make_record(languages=("deu_Latn", "eng_Latn"))
    record.settings.update(settings)
    record.model["special_token_ids"] = SPECIAL
    return record


def kept_of(whole: Shard, settings: dict[str, Any]) -> np.ndarray:
    kept = whole.positions() >= settings.get("skip_positions", 0)
    if settings.get("prompt_only"):
        kept &= ~whole.generated_tokens()
    if settings.get("skip_special"):
        kept &= ~np.isin(whole.token_ids, SPECIAL)
    return kept


def left_of(whole: Shard, kept: np.ndarray) -> Shard:
    """What is left of a shard; profiles are drawn, nobody knows those of single tokens."""
    text = whole.sequence_of_token()
    lengths = np.bincount(text[kept], minlength=len(whole.seqs)).astype(np.int32)
    there = lengths > 0
    return replace(
        whole,
        seqs=whole.seqs[there],
        text_ids=[name for name, here in zip(whole.text_ids, there, strict=True) if here],
        lengths=lengths[there],
        truncated=whole.truncated[there],
        token_ids=whole.token_ids[kept],
        experts=whole.experts[:, :, kept],
        weights=whole.weights[:, :, kept],
        profiles=whole.profiles[:, there],
        generated=np.bincount(text[kept & whole.generated_tokens()], minlength=len(there)).astype(np.int32)[there],
        token_positions=whole.positions()[kept],
        set_aside=[FailedText(int(whole.seqs[at]), whole.text_ids[at], "short") for at in np.flatnonzero(~there)],
    )


def whole_shard(record: RunRecord, lang: str = "deu_Latn") -> Shard:
    """Texts of 1 to 11 tokens; where the run generates, the model generated the last two of those that have three."""
    made = make_world(seed=5, record=record, texts=8)
    shard = make_shard(record, lang, 0, 0, made.texts[lang])
    generated = np.where(shard.lengths > 2, 2 if "generation" in record.settings else 0, 0)
    return replace(shard, generated=generated.astype(np.int32))


def write(path: Path, record: RunRecord, whole: Shard) -> Shard:
    left = left_of(whole, kept_of(whole, record.settings))
    prompts = whole.tokens - int(whole.generated.sum())
    with StoreWriter(path, record, {"deu_Latn": [(len(whole.seqs), prompts)], "eng_Latn": []}) as writer:
        writer.write(left)
    return left


@pytest.mark.parametrize("name", FILTERS)
def test_what_a_filter_leaves_verifies_and_is_what_the_views_show(tmp_path: Path, name: str) -> None:
    record = filtered_record(**FILTERS[name])
    whole = whole_shard(record)
    left = write(tmp_path, record, whole)
    assert 0 < left.tokens < whole.tokens
    verdict = verify(tmp_path)
    assert verdict.problems == []
    path = layout.failed_path("run", "deu_Latn", 0)
    assert verdict.failed == ({path: len(left.set_aside)} if left.set_aside else {})
    (commit,) = Store(tmp_path).commits
    assert (commit.sequences, commit.tokens) == (len(left.seqs), left.tokens)
    db = connect(tmp_path)
    kept = kept_of(whole, record.settings)
    expected = zip(whole.seqs[whole.sequence_of_token()][kept], whole.positions()[kept], strict=True)
    found = db.sql("select seq, position from tokens order by seq, position").fetchall()
    assert found == [(int(seq), int(position)) for seq, position in expected]
    chosen = whole.experts[0][:, kept].ravel()
    counts = db.sql("select count from usage where layer = 1 order by expert").fetchall()
    assert [count for (count,) in counts] == np.bincount(chosen, minlength=8).tolist()


def one_is(rows: pa.Table, name: str, value: object) -> pa.Table:
    return column(name, put(0, value), rows)  # type: ignore[arg-type]


def special_again(rows: pa.Table) -> pa.Table:
    return column("token_id", put(0, SPECIAL[0]), rows)


@pytest.mark.parametrize(
    ("name", "table", "change", "message"),
    [
        ("skip_positions", "tokens", partial(column, "position", lambda v: v - 1), "a position outside its text"),
        ("skip_positions", "tokens", partial(column, "position", lambda v: v + 1), "a position outside its text"),
        ("skip_positions", "tokens", partial(column, "position", lambda v: np.full_like(v, 2)), "a position twice"),
        ("skip_special", "tokens", partial(column, "position", put(0, 64)), "a position outside its text"),
        ("skip_special", "tokens", partial(column, "position", np.zeros_like), "a position twice"),
        ("skip_special", "tokens", partial(column, "position", put(0, -1)), "a position outside its text"),
        ("skip_special", "tokens", special_again, "has a special token, which the run leaves out"),
        ("all", "tokens", special_again, "has a special token, which the run leaves out"),
        (
            "prompt_only",
            "tokens",
            partial(one_is, name="generated", value=True),
            "has a generated token, which the run",
        ),
        ("prompt_only", "tokens", partial(column, "position", put(0, 40)), "a position outside its text"),
        ("prompt_only", "sequences", partial(column, "generated", put(0, 1)), "has generated tokens, which the run"),
        ("skip_special", "sequences", partial(column, "tokens", put(0, 1)), "the commit record says"),
    ],
)
def test_what_a_filter_could_not_have_left_is_found(
    tmp_path: Path, name: str, table: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    record = filtered_record(**FILTERS[name])
    write(tmp_path, record, whole_shard(record))
    assert verify(tmp_path).problems == []
    rewritten(tmp_path, table, change)
    problems = verify(tmp_path).problems
    assert any(message in problem.what for problem in problems), problems
    assert all("cannot be checked" not in problem.what for problem in problems)


def test_missing_positions_are_wrong_in_a_run_that_leaves_none_out(tmp_path: Path) -> None:
    record = filtered_record()
    left = replace(left_of(whole_shard(record), whole_shard(record).positions() > 0), set_aside=())
    StoreWriter(tmp_path, record).write(left)
    (problem,) = verify(tmp_path).problems
    assert problem.what == "has a position outside its text"


def test_a_text_that_is_missing_and_was_not_set_aside_is_found(tmp_path: Path) -> None:
    record = filtered_record(skip_positions=2)
    left = write(tmp_path, record, whole_shard(record))
    assert left.set_aside, "no text was short enough: nothing was tested"
    failed = tmp_path / layout.failed_path("run", "deu_Latn", 0)
    assert FailedRecord.from_json(failed.read_text(), "failed").texts == tuple(left.set_aside)
    failed.unlink()
    (problem,) = verify(tmp_path).problems
    assert f"plan/run=run.json says {len(left.seqs) + len(left.set_aside)} of" in problem.what


@pytest.mark.parametrize(
    ("settings", "tokens", "problems"),
    [
        ({}, 0, 0),
        ({}, -1, 1),
        ({}, 1, 1),
        ({"generation": {"max_new_tokens": 9}}, -4, 0),
        ({"generation": {"max_new_tokens": 9}}, 4, 1),
        ({"generation": {"max_new_tokens": 9}, "prompt_only": True}, -4, 1),
        ({"generation": {"max_new_tokens": 9}, "prompt_only": True}, 0, 0),
    ],
)
def test_a_shard_has_the_tokens_of_its_plan_and_more_or_less_only_where_its_settings_say_so(
    tmp_path: Path, settings: dict[str, Any], tokens: int, problems: int
) -> None:
    record = filtered_record(**settings)
    shard = replace(whole_shard(record), generated=None)
    with StoreWriter(tmp_path, record, {"deu_Latn": [(len(shard.seqs), shard.tokens + tokens)]}) as writer:
        writer.write(shard)
    assert len(verify(tmp_path).problems) == problems


def test_a_shard_of_which_nothing_is_left_is_committed_empty(tmp_path: Path) -> None:
    record = filtered_record(skip_positions=50)
    whole = whole_shard(record)
    left = write(tmp_path, record, whole)
    assert (left.tokens, len(left.set_aside)) == (0, len(whole.seqs))
    other = replace(whole_shard(record, "eng_Latn"), token_positions=None)
    StoreWriter(tmp_path, record).write(replace(other, token_positions=other.positions() + 50))
    assert verify(tmp_path).problems == []
    db = connect(tmp_path)
    assert db.sql("select count(*) from sequences where lang = 'deu_Latn'").fetchall() == [(0,)]
    assert db.sql("select sum(count) from usage where lang = 'deu_Latn'").fetchall() == [(0,)]
    compact(Store(tmp_path), "run")
    assert verify(tmp_path).problems == []


def test_an_earlier_attempt_is_forgotten_where_nothing_is_set_aside(tmp_path: Path) -> None:
    record = filtered_record(skip_positions=2)
    whole = whole_shard(record)
    left = left_of(whole, kept_of(whole, record.settings))
    failed = tmp_path / layout.failed_path("run", "deu_Latn", 0)
    with StoreWriter(tmp_path, record) as writer:
        writer.write(left)
        assert failed.exists()
        (tmp_path / layout.commit_path("run", "deu_Latn", 0)).unlink()
        writer.write(replace(left, set_aside=()))
    assert not failed.exists()


@pytest.mark.parametrize("positions", [[3, 2], [-1, 0], [5, 5]])
def test_positions_that_do_not_ascend_are_refused(tmp_path: Path, positions: list[int]) -> None:
    record = filtered_record(skip_special=True)
    whole = whole_shard(record)
    wrong = whole.positions().copy()
    start = int((np.cumsum(whole.lengths) - whole.lengths)[np.argmax(whole.lengths > 1)])
    wrong[start : start + 2] = positions
    with pytest.raises(CaptureError, match="deu_Latn shard 0: the positions of a text do not ascend"):
        StoreWriter(tmp_path, record).write(replace(whole, token_positions=wrong))


def test_nothing_at_all_is_no_shard(tmp_path: Path) -> None:
    record = filtered_record(skip_positions=50)
    left = left_of(whole_shard(record), np.zeros(whole_shard(record).tokens, dtype=bool))
    with pytest.raises(CaptureError, match="a text without tokens"):
        StoreWriter(tmp_path, record).write(replace(left, set_aside=()))
