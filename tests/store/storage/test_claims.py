"""A claim keeps others off a shard while its process lives, and no longer."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from moetrace.store.format.layout import claim_path
from moetrace.store.storage.claims import Claims, living_claims
from moetrace.store.storage.local import LocalStorage

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LANG = "eng_Latn"


def test_a_claim_keeps_others_off_until_it_is_given_back(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    mine, theirs = Claims(storage, "run"), Claims(storage, "run")
    assert mine.take(LANG, 0)
    assert mine.take(LANG, 0)
    assert not theirs.take(LANG, 0)
    assert living_claims(storage) == [claim_path("run", LANG, 0)]
    mine.release(LANG, 0)
    assert theirs.take(LANG, 0)
    mine.release(LANG, 0)  # not its own any more
    assert not mine.take(LANG, 0)
    theirs.close()
    assert living_claims(storage) == []


def test_the_claim_of_another_machine_is_void_when_it_is_not_renewed(tmp_path: Path) -> None:
    claims = Claims(LocalStorage(tmp_path), "run")
    path = tmp_path / claim_path("run", LANG, 0)
    path.parent.mkdir(parents=True)
    claim = {"machine": "another", "process": 1, "started": "1", "id": "x"}
    path.write_text(json.dumps({**claim, "renewed": time.time() - 60}))
    assert not claims.take(LANG, 0)
    path.write_text(json.dumps({**claim, "renewed": time.time() - 3600}))
    assert claims.take(LANG, 0)
    claims.close()


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moetrace.store.storage.claims.RENEWAL", 0.02)
    with Claims(LocalStorage(tmp_path), "run") as claims:
        assert claims.take(LANG, 0)
        path = tmp_path / claim_path("run", LANG, 0)
        first = json.loads(path.read_text())["renewed"]
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["renewed"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
