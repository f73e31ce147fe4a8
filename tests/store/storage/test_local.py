"""A store in a folder: listings, and what it needs of a filesystem."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from moetrace.store.storage.open import open_storage
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.writer_process import WORLD, all_shards

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_filesystem_without_hard_links_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    shard = all_shards()[0]
    commit = StoreWriter(tmp_path, WORLD.record).write(shard)
    assert StoreWriter(tmp_path, WORLD.record).write(shard) == commit
    verdict = verify(tmp_path)
    assert (verdict.problems, verdict.orphans, verdict.unfinished) == ([], [], [])


def test_a_listing_has_no_folders_and_no_order_of_the_disk(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    for name in ("b/2", "a/1", "b/1/x", "c"):
        assert storage.create(name, name.encode())
    assert [(entry.path, entry.bytes) for entry in storage.listing()] == [
        ("a/1", 3),
        ("b/1/x", 5),
        ("b/2", 3),
        ("c", 1),
    ]
    assert [entry.path for entry in storage.listing("b")] == ["b/1/x", "b/2"]
    assert storage.listing("nowhere") == []
    (*_, before) = storage.listing()
    storage.replace("c", b"y")
    assert storage.listing()[-1].stamp != before.stamp
    shutil.rmtree(tmp_path / "b")
    assert [entry.path for entry in storage.listing()] == ["a/1", "c"]
