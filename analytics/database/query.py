"""Running a person's SQL over a store without letting it change anything: neither the store nor any other file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import duckdb

from moetrace.analytics.database.documentation import views
from moetrace.analytics.database.errors import QueryError, translate_duckdb_errors
from moetrace.store.format.schema import TABLE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

FILTER_NEEDS = {  # arguments of metrics that leave out tokens, and the tables that counts are then made of
    "prompt_only": ("tokens", "routes"),
    "skip_positions": ("tokens", "routes"),
    "skip_special": ("tokens", "routes"),
    "shared_texts": ("sequences", "tokens", "routes"),
}
PARALLEL = "parallel text ids"  # what a view's header says it needs where it pairs texts of one id
WRITES_FILES = {duckdb.StatementType.COPY, duckdb.StatementType.EXPORT}


def run_query(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[duckdb.DuckDBPyRelation]:
    """Run the statements of `query` one after another and yield the rows of each that has any, still to be fetched.

    Raises QueryError with DuckDB's own words, without its class names, for a statement that is wrong or not allowed.
    """
    with translate_duckdb_errors():
        for statement in duckdb.extract_statements(query):
            if statement.type in WRITES_FILES:
                raise QueryError("copy and export are not allowed here: write a result with --format and -o")
            relation = connection.sql(statement.query)
            if relation is not None:
                yield relation


def missing_inputs(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """Return a sentence for each view that a query names and each run that lacks what the view needs.

    Where the query names a filter, a view that takes it also needs what its counts are then made of. Where the query
    names runs, only those are looked at. What such a view has of such a run are no rows, or NULL.
    """
    named = set(re.findall(r"[\w.-]+", query))
    with translate_duckdb_errors():
        runs: list[tuple[str, list[str], bool]] = connection.execute(
            "select run, tables, parallel from runs order by run"
        ).fetchall()
    wanted = [found for found in runs if found[0] in named] or runs
    found = []
    for view in (view for name, view in views().items() if name in named):
        filters = [name for name in FILTER_NEEDS if name in named & view.defaults.keys()]
        needed = {*view.needs.split(", "), *(table for name in filters for table in FILTER_NEEDS[name])}
        with_filters = f" with {' and '.join(filters)}" if filters else ""
        for run, tables, parallel in wanted:
            lacking = [table for table in TABLE_NAMES if table in needed and table not in tables]
            if lacking:
                reason = f"which was traced without {' and '.join(lacking)}"
            elif PARALLEL in needed and not parallel:
                reason = "whose text ids are not parallel: the same id in two languages is not the same text"
            else:
                continue
            found.append(f"{view.name}{with_filters} has nothing of run '{run}', {reason}")
    return found


def completions(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names a person may want to type: views, macros and columns."""
    rows = connection.execute(
        "select view_name from duckdb_views() where not internal union select table_name from duckdb_tables() "
        "union select column_name from duckdb_columns() where not internal order by 1"
    ).fetchall()
    return [name for (name,) in rows]
