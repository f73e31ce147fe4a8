"""Names as SQL: whatever a name is, it stays one value of one statement."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.quoting import identifier, literal
from moetrace.store.errors import MoetraceError

DB = duckdb.connect()
PIECES = st.sampled_from(
    ["'", '"', "''", "\\", "\\'", ";", "--", "/*", "*/", "$$", "$1", "?", "\n", "\r", "E'", "%", "{}"]
)
TEXTS = st.lists(
    PIECES | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5), max_size=6
).map("".join)


@given(TEXTS)
def test_any_text_comes_back_from_a_literal(text: str) -> None:
    sql = f"select {literal(text)}, 1"
    assert len(duckdb.extract_statements(sql)) == 1
    assert DB.execute(sql).fetchall() == [(text, 1)]


@given(TEXTS.filter(bool))
def test_any_name_comes_back_from_an_identifier(name: str) -> None:
    sql = f"select 1 as {identifier(name)}, 2 as other_column"
    assert len(duckdb.extract_statements(sql)) == 1
    assert DB.execute(sql).description[0][0] == name
    assert DB.execute(f"with t({identifier(name)}) as (select 7) select {identifier(name)} from t").fetchall() == [(7,)]


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800"])
def test_what_sql_cannot_hold_is_refused(text: str) -> None:
    for quoted in (literal, identifier):
        with pytest.raises(MoetraceError, match="cannot stand in SQL"):
            quoted(text)


def test_an_empty_name_is_no_identifier() -> None:
    with pytest.raises(MoetraceError, match="empty name"):
        identifier("")
    assert literal("") == "''"
