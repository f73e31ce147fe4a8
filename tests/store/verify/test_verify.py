"""`verify` finds whatever is wrong with a store, and SQL never returns a number from a damaged file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.cli.main import run as moetrace
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from tests.support.answers import QUERIES, answers
from tests.support.stores import data_file, make_world, write_world

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


def test_repair_lets_the_next_trace_do_the_shard_again(store: Path, good: Path) -> None:
    world = make_world(seed=3, texts=8)
    data_file(store, "routes").write_bytes(b"rubbish")
    (store / "commits/run=run/lang=eng_Latn/00000.json").write_text("{")
    verdict = verify(store, repair=True)
    assert verdict.dropped == [f"commits/run=run/lang={lang}/00000.json" for lang in ("deu_Latn", "eng_Latn")]
    assert len(verify(store).orphans) == 10
    write_world(store, world, texts_in_shard=4)
    verdict = verify(store)
    assert (verdict.problems, verdict.orphans) == ([], [])
    for query in QUERIES.values():
        assert answers(store, query) == answers(good, query)


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
        ({"run_sha256": "0"}, "was traced under another record of run 'run'"),
        ({"files": []}, "does not name the tables that the run record promises"),
        ({"files": [{"path": "x"}]}, "the commit record is damaged"),
        ({"lang": "eng_Latn"}, "is the record of run, eng_Latn/00000"),
        ({"tokens": 7}, "tokens, the commit record says 7"),
    ],
)
def test_a_commit_record_that_is_wrong_is_named(store: Path, change: dict[str, Any], message: str) -> None:
    path = store / "commits/run=run/lang=deu_Latn/00000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    problems = verify(store).problems
    assert any(message in problem.what for problem in problems), problems


def test_a_damaged_run_record_is_named_with_the_shards_that_lack_it(store: Path) -> None:
    (store / "runs/run.json").write_text("{}")
    what = {problem.what for problem in verify(store).problems}
    assert any("the run record is damaged" in reason for reason in what)
    assert "the record of run 'run' is missing or damaged" in what


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
    assert moetrace(["verify", str(store), "--repair"]) == 1
    assert "taken out of the store; trace again as before" in capsys.readouterr().out
    assert moetrace(["verify", str(store)]) == 0
    assert moetrace(["verify", str(store / "nowhere")]) == 1
    assert "no such store" in capsys.readouterr().err
