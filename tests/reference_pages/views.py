"""docs/reference/views.md: every view, macro and function of sql/, from the heads of the files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import SqlFile, sql_files
from tests.reference_pages.markdown import cell, code_cell, escaped, table
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    import duckdb

STAGES = {
    "1_sources": ("Sources", "What the store holds: its tables, with the run, language and shard of each row."),
    "2_staging": ("Staging", "What is added up once, and functions that metrics share."),
    "3_metrics": ("Metrics", "What papers define."),
}
INTRODUCTION = (
    "What `moetrace sql` and `moetrace.connect` can ask a store, as `moetrace views NAME` prints it. Each is one file "
    "of `sql/`. A macro is called with arguments by name, `from jaccard(n := 16)`; its plain name, `from jaccard`, is "
    "the macro at its defaults. Every row names its `run`, or two. `expert` is a `utinyint` where no run of the store "
    "has more than 256 experts in a layer, else a `usmallint`. The same metrics as polars frames: "
    "[the Python API](python.md#moetraceanalyticsmetrics)."
)
FACTS = ("formula", "range", "units", "source", "needs")


def page() -> str:
    """Return the page; types are those that DuckDB gives the columns, of a store with every table."""
    with tempfile.TemporaryDirectory() as folder:
        connection = connect(write_world(Path(folder), make_world(1, make_record())))
        with connection:
            return _page(connection)


def _page(connection: duckdb.DuckDBPyConnection) -> str:
    parts = [
        "# Views and macros",
        INTRODUCTION,
    ]
    for stage, (title, words) in STAGES.items():
        found = [item for item in sql_files().values() if item.stage == stage]
        rows = [[f"[`{item.name}`](#{item.name})", cell(item.row)] for item in found]
        parts += [f"## {title}", words, table(["name", "what it is"], rows)]
    for stage, (title, _) in STAGES.items():
        parts.append(f"## {title}, one by one")
        for item in sql_files().values():
            if item.stage == stage:
                parts += _described(item, connection)
    return "\n\n".join(parts) + "\n"


def _described(item: SqlFile, connection: duckdb.DuckDBPyConnection) -> list[str]:
    path = f"sql/{item.stage}/{item.name}.sql"
    facts = [f"- {key}: {escaped(getattr(item, key))}" for key in FACTS if getattr(item, key)]
    parts = [
        f"### {item.name}",
        f"```sql\n{item.signature}\n```",
        escaped(item.row),
        "\n".join([*facts, f"- file: [{path}](../../{path})"]),
    ]
    if item.parameters:
        rows = [
            [code_cell(name), code_cell(item.defaults[name] or ""), cell(text)]
            for name, text in item.parameters.items()
        ]
        parts.append(table(["parameter", "default", "meaning"], rows))
    if item.columns:
        types = {row[0]: row[1] for row in connection.execute(f"describe from {item.name}").fetchall()}
        rows = [[code_cell(name), code_cell(types[name].lower()), cell(text)] for name, text in item.columns.items()]
        parts.append(table(["column", "type", "meaning"], rows))
    return parts
