"""Roll-ups that nobody compacted are added up in memory: what SQL adds up of `usage`, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import StoreError
from moetrace.store.read.reader import Store
from moetrace.store.read.usage_files import FILES_AT_ONCE, added_up
from tests.support.older import rewrite_table
from tests.support.stores import data_file, make_record, make_world, write_world
from tests.support.tampering import column, put, rewritten

if TYPE_CHECKING:
    from pathlib import Path

SUMS = """
    select lang, layer, expert, sum(count), sum(weight_sum), sum(sequence_share_sum), sum(probability_sum),
        sum(sequence_probability_sum), sum(count_squared_sum), sum(count_decisions_sum)
    from usage where run = 'run' group by all order by all
"""
BY_LANGUAGE = "select * exclude (run, tokens, sequences) from usage_by_language where run = 'run' order by all"


def same(store: Path) -> bool:
    """Tell whether the sums of `usage_by_language` are those that SQL makes of `usage`."""
    with connect(store) as database:
        mine, sql = (database.sql(query).fetchall() for query in (BY_LANGUAGE, SUMS))
    assert len(mine) == len(sql) > 0
    return all(
        row[:4] == other[:4] and row[4:] == pytest.approx(other[4:], rel=1e-12)
        for row, other in zip(mine, sql, strict=True)
    )


def test_sums_are_those_of_sql_of_runs_of_different_models(store: Path) -> None:
    wide = make_record(run="wide", languages=("eng_Latn", "fra_Latn"), moe_layers=(0, 3), num_experts=300, top_k=4)
    write_world(store, make_world(seed=9, record=wide, texts=4), texts_in_shard=1)
    assert same(store)
    assert Store(store).added_up.rest == []
    assert {found.run for found in Store(store).added_up.rollups} == {"run", "wide"}


def test_many_shards_are_added_in_their_order(tmp_path: Path) -> None:
    opened = write_world(
        tmp_path, make_world(seed=1, record=make_record(languages=("swh_Latn",)), texts=48), texts_in_shard=1
    )
    files = [(opened.file_record(file.path), file.version) for file in opened.files("usage") if file.lang == "swh_Latn"]
    assert len(files) > 2 * FILES_AT_ONCE
    expected = sum((column_of(opened, file[0].path) for file in files[1:]), start=column_of(opened, files[0][0].path))
    found = added_up(opened, opened.run(), "swh_Latn", files).column("weight_sum").to_numpy()
    assert np.array_equal(found, expected), "bit for bit"
    assert same(tmp_path)


def column_of(opened: Store, path: str) -> np.ndarray:
    with duckdb.connect() as database:
        query = "select weight_sum from read_parquet($1, hive_partitioning = false)"
        return np.array(database.execute(query, [f"{opened.url}/{path}"]).fetchall())[:, 0]


def test_rows_in_another_order_are_left_to_sql(store: Path) -> None:
    rewritten(store, "usage", lambda rows: rows.take(np.arange(len(rows))[::-1]))
    assert {file.lang for file in Store(store).added_up.rest} == {"deu_Latn"}
    assert same(store)
    with pytest.raises(StoreError, match="the roll-ups of deu_Latn of run 'run' do not have a count for each expert"):
        Store(store).rollup_table()


@pytest.mark.parametrize("count", [-1, 2**62, 2**63 - 1])
def test_counts_that_are_none_are_refused_and_never_wrap(store: Path, count: int) -> None:
    rewritten(store, "usage", lambda rows: column("count", put(3, count), rows))
    second = store / "commits/run=run/lang=deu_Latn/00001.json"
    rewrite_table(store, second, "usage", lambda rows: column("count", put(3, 2**62), rows))
    with pytest.raises(StoreError, match="do not have a count for each expert of each layer"):
        Store(store).rollup_table()
    assert {file.lang for file in Store(store).added_up.rest} == {"deu_Latn"}


def test_a_null_where_none_may_be_is_refused(store: Path) -> None:
    def without(rows: pa.Table) -> pa.Table:
        values = rows.column("count").to_pylist()
        return rows.set_column(2, pa.field("count", pa.int64()), pa.array([None, *values[1:]], pa.int64()))

    rewritten(store, "usage", without)
    with pytest.raises(StoreError, match="cannot be read as Parquet"):
        Store(store).rollup_table()
    assert {file.lang for file in Store(store).added_up.rest} == {"deu_Latn"}


def test_a_type_that_only_arrow_knows_of_is_refused_though_parquet_stores_the_same(store: Path) -> None:
    Store(store).rollup_table()  # a file of the right columns was read before

    def as_durations(rows: pa.Table) -> pa.Table:
        field = pa.field("count", pa.duration("s"), nullable=False)
        return rows.set_column(2, field, rows.column("count").cast(field.type))

    rewritten(store, "usage", as_durations)
    with pytest.raises(StoreError, match=r"deu_Latn/00000.*(cannot be read as Parquet|their types differ)"):
        Store(store).rollup_table()


def test_a_damaged_file_is_named(store: Path) -> None:
    path = data_file(store, "usage")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"usage/run=run/lang=deu_Latn/00000[.]parquet: damaged near byte 0"):
        connect(store)


def test_what_was_added_up_is_read_and_is_no_file_of_the_store(store: Path) -> None:
    with connect(store) as database:
        assert database.sql("select sum(count) > 0 from files.rollups").fetchall() == [(True,)]
        with pytest.raises(duckdb.Error):
            database.sql("from read_parquet('moetrace://added-up/run=other.parquet')")
    assert not any(store.rglob("added-up*"))
