"""`moetrace ls --failed`, and how `moetrace trace` ends where texts could not be traced."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.cli.main import run
from moetrace.store.format import layout
from moetrace.store.format.plan_record import FailedText
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.runs.trace import TraceResult
from tests.support.commands import failure
from tests.support.records import change_record
from tests.support.stores import make_record, make_shard, make_world

if TYPE_CHECKING:
    from pathlib import Path

LANG, STRANGE = "deu_Latn", "[red]\x1b[2J\u202e"
FAILED = layout.failed_path("run", LANG, 1)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two texts set aside, one for each reason, and a record of a shard that was never committed."""
    world = make_world(3, make_record(languages=(LANG,)), texts=6)
    aside = (FailedText.left_out(3, "short", 2), FailedText.failed(4, STRANGE, f"CUDA error {STRANGE}"))
    with StoreWriter(tmp_path / "store", world.record) as writer:
        for number in range(2):
            shard = make_shard(world.record, LANG, number, 5 * number, world.texts[LANG][number : number + 1])
            writer.write(replace(shard, set_aside=aside if number else ()))
        writer.write(replace(shard, number=2, seqs=shard.seqs + 1, set_aside=[FailedText.failed(9, "gone", "it died")]))
    (tmp_path / "store" / layout.commit_path("run", LANG, 2)).unlink()
    return tmp_path / "store"


def test_texts_that_were_set_aside_are_listed_with_the_reason(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", str(store), "--failed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["store"], found["format_version"]) == (str(store), 5)
    common = {"run": "run", "lang": LANG, "shard": 1}
    assert found["failed"] == [
        {
            **common,
            "seq": 3,
            "text_id": "short",
            "kind": "filter",
            "reason": "the run's settings leave out all of its 2 tokens",
        },
        {
            **common,
            "seq": 4,
            "text_id": STRANGE,
            "kind": "failed",
            "reason": f"could not be traced: CUDA error {STRANGE}",
        },
    ]


def test_what_is_listed_cannot_talk_to_the_terminal(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["ls", str(store), "--failed"]) == 0
    shown = capsys.readouterr().out
    heading, filtered, failed = shown.splitlines()
    assert heading.split() == ["run", "lang", "shard", "seq", "text_id", "kind", "reason"]
    assert filtered.split()[:6] == ["run", LANG, "1", "3", "short", "filter"]
    assert "could not be traced: CUDA error [red]" in failed
    assert not {"\x1b", "\u202e"} & set(shown)


def test_a_store_of_which_all_was_traced_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_world(3, make_record(languages=(LANG,)))
    with StoreWriter(tmp_path / "store", world.record) as writer:
        writer.write(make_shard(world.record, LANG, 0, 0, world.texts[LANG]))
    assert run(["ls", str(tmp_path / "store"), "--failed"]) == 0
    assert "no text was set aside" in capsys.readouterr().err
    assert run(["ls", str(tmp_path / "store"), "--failed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"shard": 7}, "shard: is the record of deu_Latn/7"),
        ({"run_sha256": "0" * 64}, "run_sha256: is of another record"),
        ({"texts": [{"seq": -1, "text_id": "", "reason": ""}]}, "texts.0.seq"),
        ({"kind": "failed"}, "kind"),
    ],
)
def test_a_record_that_is_not_of_its_shard_is_refused(
    store: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], says: str
) -> None:
    change_record(store / FAILED, lambda record: record.update(fields))
    assert says in failure(capsys, "ls", store, "--failed")
    assert run(["ls", str(store)]) == 0, "who does not ask for them is not kept"
    capsys.readouterr()
    assert run(["verify", str(store)]) == 1
    assert FAILED in capsys.readouterr().out


@pytest.mark.parametrize(
    ("failed", "before", "code", "says"),
    [
        (0, 0, 0, None),
        (3, 0, 1, "could not be traced: 3; `moetrace ls"),
        (3, 1200, 1, "could not be traced: 3, 1,200 in earlier traces; `moetrace ls"),
        (0, 2, 0, "could not be traced: 2 in earlier traces; `moetrace ls"),
    ],
)
def test_the_exit_code_says_that_texts_could_not_be_traced_now(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failed: int,
    before: int,
    code: int,
    says: str | None,
) -> None:
    result = TraceResult("run", None, 1, 2, 0, 0.1, 5, failed, before)  # type: ignore[arg-type]  the plan is not looked at
    monkeypatch.setattr("moetrace.tracer.runs.trace.trace", lambda *_, **__: result)
    assert run(["trace", "bundled", "--corpus", "bundled", "--store", "a-store"]) == code
    told = capsys.readouterr().err
    assert ("could not be traced" in told) is (says is not None)
    assert says is None or (says in told and "a-store --failed" in told)
