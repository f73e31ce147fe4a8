"""A store in a folder: listings, and what it needs of a filesystem."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import StoreError
from moetrace.store.storage.open import open_storage
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.writer_process import WORLD, all_shards

if TYPE_CHECKING:
    from pathlib import Path


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
    names = ["commits/run=a/lang=x/00001.json", "commits/run=a/run.json", "runs/a.json", "store.json"]
    for name in (names[1], names[0], names[3], names[2]):
        assert storage.create(name, name.encode())
    assert [(entry.path, entry.bytes) for entry in storage.listing()] == [(name, len(name)) for name in names]
    assert [entry.path for entry in storage.listing("commits")] == names[:2]
    assert storage.listing("plan") == []
    (*_, before) = storage.listing()
    storage.replace("store.json", b"y")
    assert storage.listing()[-1].stamp != before.stamp
    shutil.rmtree(tmp_path / "commits")
    assert [entry.path for entry in storage.listing()] == names[2:]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "runs/../../x", "runs/a/b.json", "", "x", "staging/x/y"])
def test_nothing_but_paths_of_a_store_is_touched(tmp_path: Path, path: str) -> None:
    storage = open_storage(tmp_path / "store")
    for touch in (
        lambda: storage.read(path),
        lambda: storage.read_range(path, 0, 1),
        lambda: storage.create(path, b""),
        lambda: storage.replace(path, b""),
        lambda: storage.delete(path),
        lambda: storage.move(path, "runs/a.json"),
        lambda: storage.move("runs/a.json", path),
        lambda: storage.publish(tmp_path / "staged", path),
        lambda: storage.has(path),
    ):
        with pytest.raises(StoreError, match="is no path of a store"):
            touch()
    assert list(tmp_path.rglob("*")) == []
