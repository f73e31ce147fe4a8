"""Bytes of a store are checked when they are read, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.errors import QueryError, translate_duckdb_errors
from moetrace.analytics.database.query import run_query
from moetrace.store.errors import StoreError
from moetrace.store.format.blocks import BLOCK
from tests.support.answers import answers
from tests.support.stores import data_file, make_record, make_world, write_world


def test_the_shell_says_in_one_line_which_file_is_damaged(store: Path, good: Path) -> None:
    path = data_file(store, "routes")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    damaged = r"^\S+: routes/run=run/lang=deu_Latn/00000.parquet: damaged near byte 0; see `moetrace verify`[^\n]*$"
    with pytest.raises(StoreError, match=damaged):
        _ask(store, "select sum(expert) from routes")
    with pytest.raises(QueryError, match=r"^catalog: "):
        _ask(good, "select * from nothing")


def _ask(store: Path, query: str) -> None:
    for found in run_query(connect(store), query):
        with translate_duckdb_errors():
            found.fetchall()


def test_only_what_is_read_is_checked(tmp_path: Path) -> None:
    world = make_world(seed=0, record=make_record(num_experts=64, top_k=8), texts=900)
    (path,) = {
        file.location for file in write_world(tmp_path, world, 10_000).files("routes") if file.lang == "eng_Latn"
    }
    content = bytearray(Path(path).read_bytes())
    assert len(content) > 3 * BLOCK
    content[-2 * BLOCK] ^= 1  # in the last layer
    Path(path).write_bytes(content)
    assert answers(tmp_path, "select sum(expert) from routes where layer = 1")
    assert answers(tmp_path, "select sum(expert) from routes where layer = 5") is None
