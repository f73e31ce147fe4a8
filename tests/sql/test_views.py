"""The SQL files: that each is documented as it is, and has its function in Python."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, get_type_hints

import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import SQL, SqlFile, sql_files, views
from moetrace.analytics.metrics.filters import Filters
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    import duckdb

METRICS = [item for item in views().values() if item.stage == "3_metrics"]


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
        "expected_jaccard": "expected_jaccard(size, pool)",
        "leaves_out": "leaves_out(prompt_only, skip_positions, skip_special, shared_texts)",
        "wanted": "wanted(value, choice)",
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
    if defaults.pop("filters", None):  # nothing is left out where nothing is said
        defaults |= {name: kind() for name, kind in get_type_hints(Filters).items()}
    if item.name == "score_correlation":  # in SQL a table's name, in Python a frame
        assert defaults.pop("scores") is inspect.Parameter.empty
        defaults = {"scores": "'scores'"} | defaults
    assert {
        name: "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in defaults.items()
    } == item.defaults


@pytest.mark.parametrize("item", [item for item in METRICS if item.kind == "macro"], ids=lambda item: item.name)
def test_a_plain_view_is_its_macro_at_the_defaults(item: SqlFile, opened: duckdb.DuckDBPyConnection) -> None:
    plain, called = (opened.sql(f"from {name} order by all").fetchall() for name in (item.name, f"{item.name}()"))
    assert plain
    assert len(plain) == len(called)
    for row, other in zip(plain, called, strict=True):
        assert row == pytest.approx(other)
