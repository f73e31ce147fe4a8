"""Reading the SQL files: headers, signatures, and which file comes before which."""

from __future__ import annotations

import pytest

from moetrace.analytics.database.documentation import in_dependency_order, parse, sql_files, view
from moetrace.store.errors import MoetraceError, UnknownNameError

HEADER = "-- A row is one thing.\n--\n-- formula: x\n-- columns:\n--   run: the run\n"


def test_a_signature_names_the_arguments_and_their_defaults() -> None:
    assert sql_files()["wanted"].defaults == {"value": None, "choice": None}
    assert view("zones_auto").signature == "zones_auto(languages := null)"
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
