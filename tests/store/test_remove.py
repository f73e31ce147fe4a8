"""Taking a run out: its files move, everything else stays, and what a living process does is left alone."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from moetrace.cli.main import run as moetrace
from moetrace.store.errors import StoreError, UnknownNameError
from moetrace.store.format import layout
from moetrace.store.read.reader import Store
from moetrace.store.remove import plan_removal, remove
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.local import LocalStorage
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from tests.support.answers import QUERIES, answers
from tests.support.records import write_record
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def two(store: Path) -> Path:
    """A store of two runs."""
    write_world(store, make_world(9, make_record("other"), texts=3))
    compact(Store(store), "other")
    return store


def files(store: Path, run: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and (place := layout.place_of(str(path.relative_to(store)))) and place.run == run
    }


def test_a_run_moves_whole_and_can_come_back(two: Path) -> None:
    asked = [query for name, query in QUERIES.items() if name != "sequences"]  # whose order two runs do not settle
    mine, before = files(two, "other"), [answers(two, query) for query in asked]
    storage = LocalStorage(two)
    removal = plan_removal(storage, "other")
    assert (removal.shards, len(removal.entries)) == (3, len(mine))
    folder = remove(storage, removal)
    assert files(two, "other") == {}
    assert list(Store(two).runs) == ["run"]
    assert verify(two).problems == []
    for path, content in mine.items():
        assert (two / folder / path).read_bytes() == content
        (two / path).parent.mkdir(parents=True, exist_ok=True)
        (two / folder / path).rename(two / path)
    assert [answers(two, query) for query in asked] == before


def test_a_language_moves_and_can_be_traced_again(two: Path, good: Path) -> None:
    compact(Store(two), "run")
    remove(LocalStorage(two), plan_removal(LocalStorage(two), "run", "swh_Latn"))
    assert Store(two).languages("run") == ["deu_Latn", "eng_Latn"]
    assert verify(two).problems == []
    write_world(two, make_world(seed=3, texts=8), texts_in_shard=4)
    remove(LocalStorage(two), plan_removal(LocalStorage(two), "other"), force=True)
    assert list(two.glob("quarantine/*/*/run=other")) == []
    for query in QUERIES.values():
        assert answers(two, query) == answers(good, query)


def test_a_run_whose_record_is_damaged_can_be_taken_out(two: Path) -> None:
    (two / "runs/other.json").write_text("{")
    (two / "commits/run=other/run.json").unlink()
    with pytest.raises(StoreError):
        _ = Store(two).runs
    assert moetrace(["rm", str(two), "--run", "other", "--yes"]) == 0
    assert list(Store(two).runs) == ["run"]
    assert verify(two).problems == []


def test_what_a_living_process_traces_is_left_alone(two: Path) -> None:
    storage = LocalStorage(two)
    with Claims(storage, "run", Store(two).run("run").sha256()) as claims:
        assert claims.take("swh_Latn", 9)
        with pytest.raises(StoreError, match=r"is being traced by process \d+ of .*; stop it first"):
            plan_removal(storage, "run")
        with pytest.raises(StoreError, match="stop it first"):
            plan_removal(storage, "run", "swh_Latn")
        assert plan_removal(storage, "run", "deu_Latn").shards == 2
        assert plan_removal(storage, "other").shards == 3


def test_what_is_not_there_is_said(two: Path) -> None:
    with pytest.raises(UnknownNameError, match="has no run 'othr'; did you mean other"):
        plan_removal(LocalStorage(two), "othr")
    with pytest.raises(UnknownNameError, match="has no language 'swahili'"):
        plan_removal(LocalStorage(two), "other", "swahili")


def test_the_command_asks_first(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moetrace(["rm", str(two), "--run", "other"]) == 2  # nobody is there to answer
    assert "pass --yes" in capsys.readouterr().err
    assert moetrace(["rm", str(two)]) == 2
    assert moetrace(["rm", str(two), "--lang", "swh_Latn", "--staging"]) == 2
    assert "other" in Store(two).runs
    assert moetrace(["rm", str(two), "--run", "other", "--lang", "swh_Latn", "--yes"]) == 0
    assert "swh_Latn of run 'other': 1 shards, 6 files" in capsys.readouterr().out
    assert Store(two).languages("other") == ["deu_Latn", "eng_Latn"]
    assert moetrace(["rm", str(two / "nowhere"), "--run", "x", "--yes"]) == 1


def test_staging_takes_what_processes_left_that_are_gone(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(two)
    with storage.staging() as mine:
        (mine / "file").write_text("half")
        machine = mine.name.split("-")[0]
        gone, elsewhere, old, named_otherwise = (
            two / "staging" / name
            for name in (f"{machine}-999999999-1-aa", "deadbeef-1-1-bb", "deadbeef-1-1-cc", "77-dd")
        )
        for folder in (gone, elsewhere, old, named_otherwise):
            folder.mkdir()
            (folder / "file").write_text("half")
        for path in (old, old / "file"):
            os.utime(path, (time.time() - 7200, time.time() - 7200))
        claim = {"machine": "another", "process": 1, "started": "1", "id": "x", "run_sha256": "a" * 64, "renewed": 0.0}
        write_record(two / layout.claim_path("run", "eng_Latn", 7), claim)
        write_record(two / layout.claim_path("run", "eng_Latn", 8), claim)
        os.utime(two / layout.claim_path("run", "eng_Latn", 7), (0, 0))
        assert moetrace(["rm", str(two), "--staging"]) == 0
        said = capsys.readouterr()
        assert set(said.out.split("\n")[:-1]) == {
            f"staging/{gone.name}: removed",
            f"staging/{old.name}: removed",
            "claims/run=run/lang=eng_Latn/00007.json: removed",
        }
        assert "3 unfinished folders and claims removed, 4 may still be somebody's" in said.err
        assert sorted(path.name for path in (two / "staging").iterdir()) == sorted(
            [mine.name, elsewhere.name, named_otherwise.name]
        )
