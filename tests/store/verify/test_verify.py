"""`verify` finds whatever is wrong with a store, and SQL never returns a number from a damaged file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.errors import StoreError
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.answers import QUERIES, answers
from tests.support.records import change_record, read_record
from tests.support.stores import data_file, make_record, make_shard, make_world

if TYPE_CHECKING:
    from pathlib import Path


def test_a_good_store_has_no_problem(good: Path) -> None:
    verdict = verify(good)
    assert verdict.problems == verdict.orphans == verdict.unfinished == verdict.claims == []
    assert verdict.shards == len(Store(good).commits)
    assert verdict.files == 5 * verdict.shards
    assert verdict.bytes == sum(path.stat().st_size for path in good.rglob("*.parquet"))


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_a_file_cut_off_anywhere_is_named_and_never_read(store: Path, table: str) -> None:
    path = data_file(store, table)
    content = path.read_bytes()
    for size in np.linspace(0, len(content) - 1, 20).astype(int).tolist():
        path.write_bytes(content[:size])
        (problem,) = verify(store, quick=True).problems
        assert problem.path == str(path.relative_to(store))
        assert problem.what == f"has {size} bytes, the commit record says {len(content)}"
        assert answers(store, QUERIES[table]) is None
    path.unlink()
    assert [problem.what for problem in verify(store).problems] == ["is missing"]
    assert answers(store, QUERIES[table]) is None


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_a_flipped_bit_anywhere_is_named_and_never_changes_a_number(store: Path, table: str) -> None:
    path = data_file(store, table)
    content, right = path.read_bytes(), answers(store, QUERIES[table])
    assert right
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(content), 20).tolist():
        broken = bytearray(content)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        (problem,) = verify(store).problems
        assert problem.path == str(path.relative_to(store))
        assert "SHA-256" in problem.what
        found = answers(store, QUERIES[table])
        assert found in (None, right)
        refused += found is None
    assert refused > 10


def test_one_bad_shard_does_not_hide_another(store: Path) -> None:
    for lang in ("deu_Latn", "swh_Latn"):
        data_file(store, "tokens", lang).write_bytes(b"")
    verdict = verify(store)
    assert [problem.path.split("/")[2] for problem in verdict.problems] == ["lang=deu_Latn", "lang=swh_Latn"]
    assert verdict.shards == len(Store(store).commits)


def test_what_writers_leave_is_listed_and_is_no_problem(store: Path) -> None:
    orphan = store / "routes/run=run/lang=eng_Latn/00099.parquet"
    orphan.write_bytes(b"half")
    (store / "staging/123-abc").mkdir(parents=True)
    verdict = verify(store)
    assert verdict.problems == []
    assert verdict.orphans == ["routes/run=run/lang=eng_Latn/00099.parquet"]
    assert verdict.unfinished == ["staging/123-abc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_sha256": "0"}, "run_sha256: String should match pattern"),
        ({"run_sha256": "0" * 64}, "run_sha256 is 000000000000…, the record of run 'run' has digest"),
        ({"files": []}, "files: List should have at least 1 item"),
        ({"files": [{"path": "x"}]}, "files.0.table: Field required"),
        ({"lang": "eng_Latn"}, "no sequences of this shard"),
        ({"tokens": 7}, "the file of tokens has"),
        ({"sequences": -1}, "sequences: Input should be greater than or equal to 0"),
        ({"sequences": True}, "sequences: Input should be a valid integer"),
        ({"created": "yesterday"}, "created: "),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_a_commit_record_that_is_wrong_is_named_and_nothing_is_read(
    store: Path, change: dict[str, Any], message: str
) -> None:
    path = store / "commits/run=run/lang=deu_Latn/00000.json"
    change_record(path, lambda record: record.update(change))
    (problem,) = verify(store).problems
    assert problem.path == str(path.relative_to(store))
    assert message in problem.what
    with pytest.raises(StoreError, match=re.escape(message)):
        connect(store)


def test_what_was_not_written_with_its_checksum_is_damaged(store: Path) -> None:
    path = store / "commits/run=run/lang=deu_Latn/00000.json"
    path.write_text(path.read_text().replace('"tokens": ', '"tokens": 1', 1))
    (problem,) = verify(store).problems
    assert problem.what == "the record is damaged (checksum: its content is not what was written)"
    write_plain = read_record(path)
    path.write_text(json.dumps(write_plain))
    (problem,) = verify(store).problems
    assert problem.what == "the record is damaged (checksum: it has none)"


def test_how_many_of_the_planned_shards_are_there_is_said(tmp_path: Path) -> None:
    record = make_record()
    record = replace(record, corpus={**record.corpus, "shards": {"deu_Latn": 1, "eng_Latn": 3, "swh_Latn": 2**52}})
    plan = {"deu_Latn": [(3, 9)], "eng_Latn": [(1, 1)] * 3}
    world = make_world(3, record, texts=3)
    writer = StoreWriter(tmp_path, record, plan)
    writer.write(make_shard(record, "eng_Latn", 1, 0, world.texts["eng_Latn"]))
    verdict = verify(tmp_path)
    (run,) = verdict.runs
    assert (run.run, run.there, run.planned) == ("run", 1, 4 + 2**52)
    assert run.missing[:4] == ("deu_Latn/00000", "eng_Latn/00000", "eng_Latn/00002", "swh_Latn/00000")
    (problem,) = verdict.problems  # it is not cut as the plan says
    assert problem.path == "commits/run=run/lang=eng_Latn/00001.json"
    assert problem.what.endswith("plan/run=run.json says 1 of 1")


def test_the_command_names_bad_files_and_exits_with_one(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moetrace(["verify", str(store)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "shards, " in err
    assert "; no problems" in err
    path = data_file(store, "usage")
    path.write_bytes(path.read_bytes()[:-1])
    assert moetrace(["verify", str(store), "--quick"]) == 1
    assert capsys.readouterr().out.startswith("usage/run=run/lang=deu_Latn/00000.parquet: has ")
    assert moetrace(["verify", str(store), "--repair", "--dry-run"]) == 1
    would = capsys.readouterr().out
    assert "to repair: commits/run=run/lang=deu_Latn/00000.json: is taken out" in would
    assert "done" not in would
    assert moetrace(["verify", str(store), "--repair"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(would)
    assert "done: commits/run=run/lang=deu_Latn/00000.json: is taken out" in out
    assert "what was moved is in quarantine/" in out
    assert moetrace(["verify", str(store), "--dry-run"]) == 2
    assert "--dry-run goes with --repair" in capsys.readouterr().err
    assert moetrace(["verify", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["shards"]) == ([], len(Store(store).commits))
    assert moetrace(["verify", str(store)]) == 0
    assert moetrace(["verify", str(store / "nowhere")]) == 1
    assert "no such store" in capsys.readouterr().err
