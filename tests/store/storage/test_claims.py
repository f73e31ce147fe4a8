"""A claim keeps others off a shard while its process lives, and no longer."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import RunMismatchError
from moetrace.store.format.layout import claim_path
from moetrace.store.storage.claims import Claims, living_claims
from moetrace.store.storage.local import LocalStorage
from tests.support.records import write_record

if TYPE_CHECKING:
    from pathlib import Path

LANG, DIGEST = "eng_Latn", "a" * 64
CLAIM = {"machine": "another", "process": 1, "started": "1", "id": "x", "run_sha256": DIGEST, "renewed": 0.0}


def claims_in(path: Path, digest: str = DIGEST) -> Claims:
    return Claims(LocalStorage(path), "run", digest)


def written(store: Path, claim: dict[str, Any], age: float) -> Path:
    path = store / claim_path("run", LANG, 0)
    write_record(path, claim)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_a_claim_keeps_others_off_until_it_is_given_back(tmp_path: Path) -> None:
    mine, theirs = claims_in(tmp_path), claims_in(tmp_path)
    assert mine.take(LANG, 0)
    assert mine.take(LANG, 0)
    assert not theirs.take(LANG, 0)
    assert living_claims(LocalStorage(tmp_path)) == [claim_path("run", LANG, 0)]
    mine.release(LANG, 0)
    assert theirs.take(LANG, 0)
    mine.release(LANG, 0)  # not its own any more
    assert not mine.take(LANG, 0)
    theirs.close()
    assert living_claims(LocalStorage(tmp_path)) == []


@pytest.mark.parametrize("renewed", [0.0, time.time(), time.time() + 1e9], ids=["long ago", "now", "in the future"])
def test_the_claim_of_another_machine_is_void_when_its_file_is_old_whatever_its_clock_says(
    tmp_path: Path, renewed: float
) -> None:
    claim = {**CLAIM, "renewed": renewed}
    for age, free in ((60, False), (-60, False), (3600, True)):
        written(tmp_path, claim, age)
        with claims_in(tmp_path) as claims:
            assert claims.take(LANG, 0) is free
    written(tmp_path, claim, -1e6)  # the clock of the disk was wrong, and was set right
    with claims_in(tmp_path) as claims:
        assert claims.take(LANG, 0)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps(CLAIM),
        json.dumps({**CLAIM, "renewed": "yesterday"}),
        json.dumps({**CLAIM, "process": "one"}),
        "[" * 100_000,
    ],
)
def test_a_damaged_claim_is_held_until_it_is_old(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, CLAIM, 0)
    path.write_text(content)
    with claims_in(tmp_path) as claims:
        assert not claims.take(LANG, 0)
        os.utime(path, (0, 0))
        assert claims.take(LANG, 0)


@pytest.mark.parametrize("started", ["1", None])
def test_a_claim_of_a_process_that_is_gone_is_void_at_once(tmp_path: Path, started: str | None) -> None:
    with claims_in(tmp_path) as claims:
        assert claims.take(LANG, 1)
        machine = json.loads((tmp_path / claim_path("run", LANG, 1)).read_text())["machine"]
        written(tmp_path, {**CLAIM, "machine": machine, "process": 0, "started": started}, 0)
        assert claims.take(LANG, 0)


def test_who_traces_a_run_under_another_record_learns_it_before_it_works(tmp_path: Path) -> None:
    with claims_in(tmp_path) as first, claims_in(tmp_path, "b" * 64) as second:
        assert first.take(LANG, 0)
        with pytest.raises(RunMismatchError, match=r"is being traced with another record by process \d+ of"):
            second.take("swh_Latn", 7)  # another shard
        first.release(LANG, 0)
        assert second.take("swh_Latn", 7)
        with pytest.raises(RunMismatchError):
            claims_in(tmp_path).take("swh_Latn", 7)


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moetrace.store.storage.claims.RENEWAL", 0.02)
    with claims_in(tmp_path) as claims:
        assert claims.take(LANG, 0)
        path = tmp_path / claim_path("run", LANG, 0)
        first = json.loads(path.read_text())["renewed"]
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["renewed"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
