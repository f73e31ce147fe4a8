"""A connection to a stranger's store: it reads the committed files, and nothing changes that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database import connection as module
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.errors import QueryError
from moetrace.store.read.reader import Store
from moetrace.store.write.compact import compact
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("locked") / "store"
    write_world(path, make_world(1, make_record()))
    return path


OUTSIDE = (
    "from read_text('{file}')",
    "from read_csv('{file}')",
    "from '{file}'",
    "from sniff_csv('{file}')",
    "from glob('{folder}/*')",
    "copy (select 1) to '{folder}/new.csv'",
    "export database '{folder}/new'",
    "attach '{folder}/new.db'",
    "attach '{file}' as other",
    "install httpfs",
    "load '{file}'",
    "from read_text('http://localhost:1/x')",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "reset allowed_paths",
    "set threads = 1",
    "set memory_limit = '1GB'",
    "set temp_directory = '{folder}/temp'",
    "pragma enable_profiling",
    "create table t as from read_parquet('moetrace://../secret.csv')",
)


@pytest.mark.parametrize("query", OUTSIDE)
def test_no_query_reaches_outside_or_changes_a_setting(store: Path, tmp_path: Path, query: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with connect(store) as opened, pytest.raises(duckdb.Error):
        opened.execute(query.format(file=secret, folder=tmp_path)).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert secret.read_text() == "a\n1\n"


def test_the_methods_of_a_connection_reach_no_further(store: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with connect(store) as opened:
        with pytest.raises(duckdb.Error):
            opened.read_csv(str(tmp_path / "secret.csv")).fetchall()
        with pytest.raises(duckdb.Error):
            opened.sql("from routes").write_parquet(str(tmp_path / "new.parquet"))
        with pytest.raises(duckdb.Error):
            opened.cursor().execute("set threads = 1")
    assert not (tmp_path / "new.parquet").exists()


def test_it_is_locked_before_the_store_says_a_word(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a store might smuggle into a statement is run by a database that is locked already."""
    (tmp_path / "secret.csv").write_text("a\n1\n")
    refused = []

    def create_views(connection: duckdb.DuckDBPyConnection, _: Store) -> None:
        for query in (f"from read_text('{tmp_path}/secret.csv')", "set threads = 1", "install httpfs"):
            with pytest.raises(duckdb.Error):
                connection.execute(query)
            refused.append(query)

    monkeypatch.setattr(module, "create_views", create_views)
    connect(store).close()
    assert len(refused) == 3


def test_unlocked_is_for_who_asks(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("lang\neng_Latn\n")
    with connect(store, locked=False) as opened:
        joined = f"select count(*) > 0 from routes join '{tmp_path}/mine.csv' using (lang)"
        assert opened.execute(joined).fetchall() == [(True,)]
        opened.execute("set threads = 1")


def test_a_locked_connection_sees_every_committed_file(tmp_path: Path) -> None:
    write_world(tmp_path, make_world(1, make_record()))
    for _ in range(2):
        with connect(tmp_path) as locked, connect(tmp_path, locked=False) as other:
            for table in ("routes", "tokens", "sequences", "profiles", "usage", "runs", "shards"):
                query = f"from {table} order by all"
                assert locked.execute(query).fetchall() == other.execute(query).fetchall() != []
        compact(Store(tmp_path), "run")


def test_large_queries_spill_to_the_disk(store: Path, tmp_path: Path) -> None:
    settings = {"memory_limit": "100MB", "threads": 1, "temp_directory": str(tmp_path / "spill")}
    with connect(store, settings=settings) as opened:
        opened.execute(
            "create temp table t as "
            "select hash(range) as h, repeat('x', 20) || range as s from range(3000000) order by h"
        )
        assert opened.execute("select count(*), count(distinct h) from t").fetchall() == [(3000000, 3000000)]
        assert opened.execute("select sum(size) > 1e7 from duckdb_temporary_files()").fetchall() == [(True,)]


def test_settings_are_those_of_duckdb(store: Path) -> None:
    with connect(store, settings={"threads": 1}) as opened:
        assert opened.execute("select current_setting('threads')").fetchall() == [(1,)]
    with pytest.raises(QueryError, match="no_such_setting"):
        connect(store, settings={"no_such_setting": 1})


def test_a_frame_is_a_table_once_it_has_a_name(store: Path) -> None:
    mine = pl.DataFrame({"lang": ["eng_Latn"], "weight": [2]})
    with connect(store) as opened:
        with pytest.raises(duckdb.CatalogException, match="Table with name mine does not exist"):
            opened.sql("from mine").fetchall()
        opened.register("mine", mine)
        assert opened.sql("select distinct lang, weight from usage join mine using (lang)").fetchall() == [
            ("eng_Latn", 2)
        ]
        assert opened.sql("from mine").pl().equals(mine)
        assert opened.cursor().sql("select count(*) from routes").fetchall() != [(0,)]


def test_scores_can_be_given_to_it(store: Path) -> None:
    scores = pl.DataFrame({"lang": ["eng_Latn", "deu_Latn", "swh_Latn"], "score": [1.0, 2.0, 4.0]})
    with connect(store) as opened:
        metrics.use_scores(opened, scores)
        assert opened.sql("select count(*) from scores").fetchall() == [(3,)]
