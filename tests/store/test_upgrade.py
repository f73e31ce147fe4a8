"""Stores of the first format: read, upgraded, and then written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.errors import StoreError
from moetrace.store.format.sealed import CHECKSUM
from moetrace.store.read.reader import Store
from moetrace.store.storage.local import LocalStorage
from moetrace.store.upgrade import upgrade
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.older import as_written_in
from tests.support.shards import EXPERTS, LAYERS, random_shard, record_with

if TYPE_CHECKING:
    from pathlib import Path


def made_in_the_first_format(path: Path) -> Path:
    """Write a shard as the first format had it: columns were missing, and commit records had no block checksums."""
    StoreWriter(path, record_with()).write(random_shard())
    return as_written_in(1, path)


def test_a_store_of_the_first_format_is_read_but_not_written(tmp_path: Path) -> None:
    db = connect(made_in_the_first_format(tmp_path))
    assert db.sql("select distinct generated, text from sequences").fetchall() == [(0, None)]
    assert db.sql("select distinct generated from tokens").fetchall() == [(False,)]
    with pytest.raises(StoreError, match="made in format version 1, this moetrace writes 5; `moetrace upgrade"):
        StoreWriter(tmp_path, record_with())


def test_an_upgraded_store_has_shards_of_both_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moetrace(["upgrade", str(made_in_the_first_format(tmp_path))]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: format version 1 -> 5\n"
    assert verify(tmp_path).problems == []
    StoreWriter(tmp_path, record_with()).write(replace(random_shard(1), number=1, seqs=random_shard().seqs + 100))
    db = connect(tmp_path)
    moments = "count(count_squared_sum), count(count_decisions_sum), count(*)"
    found = db.sql(f"select shard, {moments} from usage group by 1 order by 1").fetchall()
    assert found == [(0, 0, 0, LAYERS * EXPERTS), (1, *[LAYERS * EXPERTS] * 3)]
    # The language has no sum over its texts: half a sum would be a wrong variance.
    assert db.sql(f"select {moments} from usage_by_language").fetchall() == [(0, 0, LAYERS * EXPERTS)]
    assert Store(tmp_path).rollup_table().column("count_squared_sum").null_count == LAYERS * EXPERTS
    scanned = Store(tmp_path).scan("usage").group_by("shard").agg(pl.col("count_squared_sum").count()).collect()
    assert dict(scanned.iter_rows()) == {0: 0, 1: LAYERS * EXPERTS}
    assert db.sql("select shard, bool_or(generated), count(*) > 0 from tokens group by 1 order by 1").fetchall() == [
        (0, False, True),
        (1, False, True),
    ]
    assert moetrace(["upgrade", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: has format version 5 already\n"
    counted = "select shard, count(*) from routes group by 1 order by 1"
    assert connect(tmp_path).sql(counted).fetchall() == db.sql(counted).fetchall()


def test_an_upgrade_gives_every_record_what_it_lacks(tmp_path: Path) -> None:
    upgrade(made_in_the_first_format(tmp_path))
    opened = Store(tmp_path)
    assert opened.format.sealed
    assert all(file.crc32 for commit in opened.commits for file in commit.files)
    assert [commit.version for commit in opened.commits] == [1]
    records = [path for path in tmp_path.rglob("*.json") if "quarantine" not in path.parts]
    assert len(records) == 4
    assert all(CHECKSUM in json.loads(path.read_text()) for path in records)
    path = next(tmp_path.rglob("usage/**/*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged near byte 0"):
        connect(tmp_path)


@pytest.mark.parametrize("stop", range(1, 5))
def test_an_upgrade_that_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    made_in_the_first_format(tmp_path)
    replace_file, done = LocalStorage.replace, []

    def stopped(self: LocalStorage, path: str, content: bytes) -> None:
        done.append(path)
        if len(done) == stop:
            raise OSError(28, "No space left on device")
        replace_file(self, path, content)

    monkeypatch.setattr(LocalStorage, "replace", stopped)
    with pytest.raises(StoreError, match=r"No space left on device\); run `moetrace upgrade` again"):
        upgrade(tmp_path)
    monkeypatch.undo()
    assert Store(tmp_path).format.version == 1
    assert len(Store(tmp_path).commits) == 1
    assert upgrade(tmp_path) == 1
    assert verify(tmp_path).problems == []


def test_a_damaged_store_is_not_upgraded(tmp_path: Path) -> None:
    made_in_the_first_format(tmp_path)
    next(tmp_path.rglob("routes/**/*.parquet")).write_bytes(b"rubbish")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="nothing was changed, `moetrace verify --repair` first"):
        upgrade(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
