"""What is in a store is what its commit records name; lazy tables have the rows of the views."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import StoreError, UnknownNameError
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.support.shards import random_shard, record_with
from tests.support.stores import make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


def test_readers_list_commit_records_and_not_files(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, record_with())
    commit = writer.write(random_shard())
    writer.write(replace(random_shard(1), number=1))
    assert [found.shard for found in Store(tmp_path).commits] == [0, 1]
    (tmp_path / "commits/run=run/lang=eng_Latn/00001.json").unlink()
    assert Store(tmp_path).commits == [commit]
    assert [file.shard for file in Store(tmp_path).files("usage")] == [0]


def test_stores_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        Store(tmp_path / "nowhere")
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"not a moetrace store \(no store.json\)"):
        Store(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"format": "moetrace-store", "version": 99}))
    with pytest.raises(StoreError, match="format version 99, this moetrace reads up to 5"):
        Store(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        Store(tmp_path)


def test_lazy_tables_have_the_rows_of_the_views(tmp_path: Path) -> None:
    opened = write_world(tmp_path, make_world(seed=5, texts=12), texts_in_shard=2)
    db = connect(tmp_path)
    for name in ("routes", "tokens", "sequences", "profiles", "usage"):
        expected = db.sql(f"from {name}").pl()
        found = opened.scan(name).collect()
        keys = ["run", "lang", "shard", *[column for column in expected.columns if column in found.columns]]
        keys = list(dict.fromkeys(keys))
        assert (
            found.select(keys).sort(keys).equals(expected.select(keys).cast(dict(found.select(keys).schema)).sort(keys))
        )
    some = opened.scan("routes", languages=["swh_Latn"]).filter(pl.col("layer") == 2).select(pl.len()).collect().item()
    assert db.sql("select count(*) from routes where lang = 'swh_Latn' and layer = 2").fetchall() == [(some,)]
    assert opened.dataset("tokens").count_rows() == db.sql("select count(*) from tokens").fetchall()[0][0]
    with pytest.raises(UnknownNameError, match="has no table 'route'; did you mean routes"):
        opened.dataset("route")
    with pytest.raises(UnknownNameError, match="has no language 'swh_Latin'; did you mean swh_Latn"):
        opened.scan("routes", languages=["swh_Latin"])
