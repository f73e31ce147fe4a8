"""Opening a store as SQL views: what is seen and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.store.errors import StoreError
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.support.stores import make_record, make_shard, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """Two runs."""
    folder = tmp_path_factory.mktemp("store")
    write_world(folder, make_world(1))
    return connect(write_world(folder, make_world(2, make_record("other"))))


def test_an_empty_store_has_every_view_and_no_rows(tmp_path: Path, opened: duckdb.DuckDBPyConnection) -> None:
    StoreWriter(tmp_path, make_record())
    empty = connect(tmp_path)
    for name in views():
        rows = empty.sql(f"from {name}").fetchall()
        assert not rows or name in {"runs", "moe_layers", "zones"}, name
        assert empty.sql(f"from {name}").columns == opened.sql(f"from {name}").columns


def test_only_committed_shards_are_seen(tmp_path: Path) -> None:
    world = make_world(2)
    write_world(tmp_path, world, texts_in_shard=2)
    lang = world.record.corpus["languages"][0]
    (tmp_path / "commits" / "run=run" / f"lang={lang}" / "00001.json").unlink()
    opened = connect(tmp_path)
    for table in ("routes", "tokens", "sequences", "profiles", "usage", "shards"):
        shards = opened.sql(f"select distinct shard from {table} where lang = '{lang}' order by all").fetchall()
        assert (1,) not in shards, table
        assert (0,) in shards, table


def test_rows_carry_run_language_and_shard_of_their_file(tmp_path: Path) -> None:
    world = make_world(3, make_record(languages=["007", "b-x"]))
    opened = connect(write_world(tmp_path, world, texts_in_shard=2))
    found = opened.sql("select run, lang, shard, text_id from sequences order by run, lang, seq").fetchall()
    assert found == [
        ("run", lang, index // 2, text.text_id)
        for lang in ("007", "b-x")
        for index, text in enumerate(world.texts[lang])
    ]
    assert opened.sql("select typeof(run), typeof(lang), typeof(shard) from routes limit 1").fetchall() == [
        ("VARCHAR", "VARCHAR", "INTEGER")
    ]


@pytest.mark.parametrize("folder", ["it's", "run=other/lang=none", "[brackets] and *"])
def test_a_store_may_lie_under_any_path(folder: str, tmp_path: Path) -> None:
    opened = connect(write_world(tmp_path / folder, make_world(4)))
    assert opened.sql("select distinct run from routes").fetchall() == [("run",)]


def test_a_question_about_one_language_opens_only_its_files(tmp_path: Path) -> None:
    opened = connect(write_world(tmp_path, make_world(5)))
    plan = opened.sql("explain analyze select sum(weight) from routes where lang = 'deu_Latn' and shard = 0").fetchall()
    files = len(Store(tmp_path).files("routes"))
    assert files > 3
    assert f"Scanning Files: 1/{files}" in plan[0][1]


def test_runs_with_few_and_many_experts_share_a_store(tmp_path: Path) -> None:
    for name, experts in (("a", 4), ("b", 300)):
        store = write_world(tmp_path, make_world(6, make_record(name, num_experts=experts), unused_experts=0))
    opened = connect(store)
    assert opened.sql("select run, max(expert) from usage group by all order by all").fetchall() == [
        ("a", 3),
        ("b", 299),
    ]
    assert opened.sql("select count(*) from routes where run = 'b' and expert > 255").fetchall() != [(0,)]


def test_a_cursor_sees_the_same_views(opened: duckdb.DuckDBPyConnection) -> None:
    assert opened.cursor().sql("from jaccard order by all").fetchall() == metrics.jaccard(opened).rows()


def test_shards_committed_later_are_seen_by_the_next_connection(tmp_path: Path) -> None:
    world = make_world(7)
    lang = world.record.corpus["languages"][0]
    writer = StoreWriter(tmp_path, world.record)
    writer.write(make_shard(world.record, lang, 0, 0, world.texts[lang][:2]))
    before = connect(tmp_path)
    writer.write(make_shard(world.record, lang, 1, 2, world.texts[lang][2:3]))
    assert before.sql("select count(*) from sequences").fetchall() == [(2,)]
    assert connect(tmp_path).sql("select count(*) from sequences").fetchall() == [(3,)]


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        connect(tmp_path)
