"""What is known of attempts at a shard outlives the process that made them, and goes when the shard is committed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import StoreError
from moetrace.store.format.attempts_record import Part
from moetrace.store.format.layout import attempts_path, claim_path
from moetrace.store.storage.attempts import Attempts, give_up_claims
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.local import LocalStorage
from moetrace.store.storage.processes import this_process
from tests.support.records import change_record

if TYPE_CHECKING:
    from pathlib import Path

LANG, DIGEST = "eng_Latn", "a" * 64


def attempts_in(path: Path, digest: str = DIGEST) -> Attempts:
    return Attempts(LocalStorage(path), "run", digest)


def test_nothing_is_written_of_a_shard_under_which_nothing_happened(tmp_path: Path) -> None:
    record = attempts_in(tmp_path).take_up(LANG, 0, 5, died=False)
    assert (record.deaths, record.parts, record.trying) == (0, (Part(0, 5),), None)
    assert attempts_in(tmp_path).suspected() == set()


def test_a_death_is_in_the_record_at_once_and_counts_once(tmp_path: Path) -> None:
    assert attempts_in(tmp_path).take_up(LANG, 0, 5, died=True).deaths == 1
    assert attempts_in(tmp_path).suspected() == {f"{LANG}/00000"}
    assert attempts_in(tmp_path).take_up(LANG, 0, 5, died=False).deaths == 1
    first = attempts_in(tmp_path)
    first.note(replace(first.take_up(LANG, 0, 5, died=False), trying=0))
    found = attempts_in(tmp_path).take_up(LANG, 0, 5, died=True)
    assert (found.deaths, found.parts) == (2, (Part(0, 2), Part(2, 3)))
    assert attempts_in(tmp_path).take_up(LANG, 0, 5, died=False) == found


@pytest.mark.parametrize("texts", [4, 6])
def test_a_record_of_another_run_or_shard_is_not_used(tmp_path: Path, texts: int) -> None:
    attempts_in(tmp_path).take_up(LANG, 0, 5, died=True)
    assert attempts_in(tmp_path, "b" * 64).take_up(LANG, 0, 5, died=False).deaths == 0
    assert attempts_in(tmp_path).take_up(LANG, 0, texts, died=False).deaths == 0
    change_record(tmp_path / attempts_path("run", LANG, 0), lambda record: record.update(shard=1))
    assert attempts_in(tmp_path).take_up(LANG, 0, 5, died=False).deaths == 0


def test_what_cannot_be_read_now_is_not_taken_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = attempts_in(tmp_path)
    attempts.take_up(LANG, 0, 5, died=True)

    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalStorage, "read", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        attempts.take_up(LANG, 0, 5, died=False)


def test_records_of_committed_shards_go(tmp_path: Path) -> None:
    attempts = attempts_in(tmp_path)
    for shard in range(3):
        attempts.take_up(LANG, shard, 5, died=True)
    attempts.forget(LANG, 0)
    attempts_in(tmp_path).forget(LANG, 1)  # who knows nothing of a record does not look for it
    assert attempts.suspected() == {f"{LANG}/00001", f"{LANG}/00002"}
    attempts_in(tmp_path).sweep({f"{LANG}/00001"})
    assert attempts.suspected() == {f"{LANG}/00002"}


def test_who_takes_a_claim_over_knows_whether_it_was_left_behind(tmp_path: Path) -> None:
    dead = {"machine": "", "process": 0, "started": "1"}
    with Claims(LocalStorage(tmp_path), "run", DIGEST) as first:
        first.take(LANG, 0)
        first.take(LANG, 1)
        assert not first.took_over(LANG, 0)
        path = tmp_path / claim_path("run", LANG, 0)
        change_record(path, lambda claim: claim.update({**dead, "machine": claim["machine"]}))
        with Claims(LocalStorage(tmp_path), "run", DIGEST) as second:
            assert second.take(LANG, 0)
            assert second.took_over(LANG, 0)
            assert not second.take(LANG, 1)
            second.release(LANG, 0)
            assert second.take(LANG, 0)
            assert not second.took_over(LANG, 0), "it gave it back itself"
        first._held.clear()


def test_claims_of_a_process_that_is_known_to_be_gone_are_given_up(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with Claims(storage, "run", DIGEST) as mine:
        assert mine.take(LANG, 0)
        assert mine.take(LANG, 1)
        process = this_process()
        for other in ({"process": 0}, {"started": "then"}, {"machine": "elsewhere"}):
            assert give_up_claims(storage, "run", {**process, **other}, lambda *_: 5) == []
        assert give_up_claims(storage, "other", process) == []
        assert not Claims(storage, "run", DIGEST).take(LANG, 0)
        assert give_up_claims(storage, "run", process) == [f"{LANG}/00000", f"{LANG}/00001"]
        assert attempts_in(tmp_path).suspected() == set()
        with Claims(storage, "run", DIGEST) as others:
            assert others.take(LANG, 1)
            assert not others.took_over(LANG, 1)
            assert give_up_claims(storage, "run", process, lambda lang, number: {(LANG, 1): 7}[lang, number])
    found = attempts_in(tmp_path).take_up(LANG, 1, 7, died=False)
    assert (found.deaths, found.parts) == (1, (Part(0, 7),))
    assert attempts_in(tmp_path).suspected() == {f"{LANG}/00001"}
