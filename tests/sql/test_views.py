"""Opening a store as SQL views: what is seen, what is not, and that every view is documented as it is."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import SQL, SqlFile, in_dependency_order, parse, sql_files, view, views
from moetrace.store.errors import MoetraceError, StoreError, UnknownNameError
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.support.stores import make_record, make_shard, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

METRICS = [item for item in views().values() if item.stage == "3_metrics"]
HEADER = "-- A row is one thing.\n--\n-- formula: x\n-- columns:\n--   run: the run\n"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """Two runs, and a score for each language: what every view needs to have rows."""
    folder = tmp_path_factory.mktemp("store")
    write_world(folder, make_world(1))
    connection = connect(write_world(folder, make_world(2, make_record("other"))))
    connection.execute("insert into scores values ('deu_Latn', 1), ('swh_Latn', 2)")
    return connection


@pytest.mark.parametrize("item", sql_files().values(), ids=lambda item: item.name)
def test_each_sql_file_is_documented_in_full(item: SqlFile) -> None:
    assert item.row.startswith("A value is " if item.kind == "function" else "A row is ")
    assert all((item.formula, item.range, item.source, item.needs))
    assert item.parameters.keys() == item.defaults.keys()
    assert all(item.columns.values())


@pytest.mark.parametrize("item", views().values(), ids=lambda item: item.name)
def test_each_view_has_the_columns_it_documents(item: SqlFile, opened: duckdb.DuckDBPyConnection) -> None:
    assert opened.sql(f"from {item.name}").columns == list(item.columns)


def test_every_file_of_the_sql_folder_is_a_view_or_a_function() -> None:
    assert sorted(path.stem for path in SQL.rglob("*.sql")) == sorted(sql_files())
    assert {name: found.signature for name, found in sql_files().items() if name not in views()} == {
        "wanted": "wanted(value, choice)"
    }


def test_what_is_not_asked_for_is_told_apart_from_what_is(opened: duckdb.DuckDBPyConnection) -> None:
    rows = opened.sql("select wanted(1, null), wanted(1, [1, 2]), wanted('a', ['b']), wanted(1, [])").fetchall()
    assert rows == [(True, True, False, False)]


def test_every_metric_restricts_languages_and_layers_by_the_one_function() -> None:
    for item in METRICS:
        for argument in {"languages", "layers"} & item.defaults.keys():
            assert re.search(rf"wanted\(\w+\.\w+, {argument}\)|{argument} := {argument}", item.sql), item.name
            assert f"{argument} is null" not in item.sql, item.name


@pytest.mark.parametrize("item", METRICS, ids=lambda item: item.name)
def test_each_metric_has_a_python_function_with_the_same_arguments(item: SqlFile) -> None:
    function = inspect.signature(getattr(metrics, item.name))
    defaults = {name: parameter.default for name, parameter in list(function.parameters.items())[1:]}
    if item.name == "score_correlation":  # in SQL a table's name, in Python a frame
        assert defaults.pop("scores") is inspect.Parameter.empty
        defaults = {"scores": "'scores'"} | defaults
    assert {name: "null" if value is None else str(value) for name, value in defaults.items()} == item.defaults


@pytest.mark.parametrize("item", [item for item in METRICS if item.kind == "macro"], ids=lambda item: item.name)
def test_a_plain_view_is_its_macro_at_the_defaults(item: SqlFile, opened: duckdb.DuckDBPyConnection) -> None:
    plain, called = (opened.sql(f"from {name} order by all").fetchall() for name in (item.name, f"{item.name}()"))
    assert plain
    assert len(plain) == len(called)
    for row, other in zip(plain, called, strict=True):
        assert row == pytest.approx(other)


def test_a_signature_names_the_arguments_and_their_defaults() -> None:
    assert sql_files()["wanted"].defaults == {"value": None, "choice": None}
    assert view("specificity").signature == "specificity(alpha := 10, languages := null, layers := null)"
    assert view("zones").signature == "zones"


def test_an_unknown_view_is_an_error_that_suggests() -> None:
    with pytest.raises(UnknownNameError, match="no view 'jacard'; did you mean jaccard"):
        view("jacard")


def test_views_come_after_those_they_read() -> None:
    texts = {"c": "create or replace view c as from a join b using (x);", "b": "create or replace view b as from a;"}
    found = [parse(HEADER + sql, "3_metrics", name) for name, sql in texts.items()]
    found.append(parse(f"{HEADER}create or replace table a (x integer);", "1_sources", "a"))
    assert [item.name for item in in_dependency_order(found)] == ["a", "b", "c"]


def test_functions_come_before_what_calls_them() -> None:
    called = parse(f"{HEADER}create or replace macro z(x, y) as (x > y);", "2_staging", "z")
    calling = parse(f"{HEADER}create or replace macro a(n := null) as table from b where z(n, 1);", "3_metrics", "a")
    assert (called.kind, calling.kind) == ("function", "macro")
    assert [item.name for item in in_dependency_order([calling, called])] == ["z", "a"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (f"{HEADER}select 1;", "a.sql: no `create or replace"),
        ("create or replace view a as select 1;", "a.sql: the header does not begin with what a row is"),
        (f"{HEADER}-- run\ncreate or replace view a as select 1;", "a.sql: `run` under `columns:` is not `name: text`"),
    ],
)
def test_a_damaged_header_is_an_error_that_names_the_file(sql: str, message: str) -> None:
    with pytest.raises(MoetraceError, match=message):
        parse(sql, "3_metrics", "a.sql")


def test_text_of_a_header_goes_on_over_indented_lines() -> None:
    header = "-- A row is one\n-- thing.\n--\n-- formula: x +\n--   y: z\n"
    found = parse(f"{header}create or replace macro a(n := null) as table select n;", "3_metrics", "a.sql")
    assert (found.row, found.formula, found.defaults) == ("A row is one thing.", "x + y: z", {"n": "null"})


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
