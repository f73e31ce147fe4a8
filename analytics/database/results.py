"""The rows of any query, of whatever types, as what a table, a CSV, a JSON or a Parquet file can hold.

DuckDB has types that Python, polars or a file format lack; those columns become text in the query itself. Columns are
taken by their position: a result may have a name twice.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.quoting import identifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    import polars as pl
    from duckdb.sqltypes import DuckDBPyType

NUMBERS = {
    *("boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint"),
    *("float", "double", "decimal"),
}
WIDE = {"hugeint", "uhugeint"}  # wider than a decimal of 38 digits, as which Arrow has them
_FAR = "(isfinite({0}) and year({0}) between -9999 and 9999) is not true"
MOMENTS = {  # with the condition under which polars cannot show a value, or shows another one
    **dict.fromkeys(("date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"), _FAR),
    "timestamp with time zone": _FAR,
    **dict.fromkeys(("time", "time_ns"), "{0}::varchar like '24:%'"),
}
KEPT = {"date", "timestamp", "timestamp with time zone"}  # of these, what Parquet keeps whatever the value
NESTED = {"array", "list", "map", "struct", "tuple"}
HELD = {  # by format: what it holds besides numbers and text
    "csv": {"enum", "null", "uuid", *MOMENTS},
    "json": {"enum", "null", "uuid", *MOMENTS},
    "parquet": {"blob", "enum", "null", "uuid", *MOMENTS},
    "table": {"null", *WIDE},
}
HELD_INSIDE = {  # the same of what is inside a list or a struct
    "csv": {"null", *WIDE},
    "json": {"null"},
    "parquet": {"blob", "enum", "uuid", *KEPT},
    "table": {"null", *WIDE},
}


def table_rows(relation: duckdb.DuckDBPyRelation, most: int) -> list[tuple[Any, ...]]:
    """Return the first `most` rows as Python has them; what it lacks is text. Raises QueryError or StoreError."""
    with translate_duckdb_errors():
        return relation.project(", ".join(_held(relation.types, "table"))).limit(most).fetchall()


def frame_of(relation: duckdb.DuckDBPyRelation, file_format: str) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return all rows as a frame that can be written as csv, json or parquet, and new names of columns by position.

    A column whose name an earlier one has gets a new one, name_1, name_2. Raises QueryError or StoreError.
    """
    import polars as pl  # noqa: PLC0415  half a second that a table need not wait

    names, types = relation.columns, relation.types
    columns = [f"{sql} as v{i}" for i, sql in enumerate(_held(types, file_format))]
    never = KEPT if file_format == "parquet" else set[str]()
    watched = {i: MOMENTS[kind.id] for i, kind in enumerate(types) if kind.id in MOMENTS.keys() - never}
    columns += [
        f"case when {when.format(f'#{i + 1}')} then #{i + 1}::varchar end as t{i}" for i, when in watched.items()
    ]
    with translate_duckdb_errors():
        frame = pl.from_arrow(relation.project(", ".join(columns)).to_arrow_table())
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"a result is a table, not {type(frame).__name__}")
    unique, renamed = _unique(names)
    found = _with_far_moments(frame, watched).select(f"v{i}" for i in range(len(names)))
    found.columns = unique
    return found, renamed


def file_content(frame: pl.DataFrame, file_format: str) -> bytes:
    """Return the content of a csv, json or parquet file."""
    if file_format == "csv":
        return frame.write_csv().encode()
    if file_format == "json":
        return f"{frame.write_json()}\n".encode()
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _with_far_moments(frame: pl.DataFrame, watched: Mapping[int, str]) -> pl.DataFrame:
    """Make text of the columns that have a moment which polars cannot write, such as infinity."""
    import polars as pl  # noqa: PLC0415

    far = [i for i in watched if frame[f"t{i}"].null_count() < len(frame)]
    return frame.with_columns(
        pl.coalesce(f"t{i}", pl.when(pl.col(f"t{i}").is_null()).then(pl.col(f"v{i}")).cast(pl.String)).alias(f"v{i}")
        for i in far
    )


def _unique(names: Sequence[str]) -> tuple[list[str], dict[int, str]]:
    taken, unique, renamed = set(names), list[str](), dict[int, str]()
    for position, name in enumerate(names):
        new = name
        if name in unique:
            number = 1
            while (new := f"{name}_{number}") in taken:
                number += 1
            renamed[position] = new
        taken.add(new)
        unique.append(new)
    return unique, renamed


def _held(types: Sequence[DuckDBPyType], file_format: str) -> list[str]:
    return [_column(f"#{position}", kind, file_format) for position, kind in enumerate(types, start=1)]


def _column(column: str, kind: DuckDBPyType, file_format: str) -> str:
    """Return the SQL of a column as the format holds it."""
    if kind.id in NUMBERS or kind.id == "varchar" or kind.id in HELD[file_format]:
        return column
    if kind.id in WIDE and file_format == "parquet":
        return f"{column}::decimal(38, 0)"  # an error where it has more digits: no other reader would take them
    if kind.id not in NESTED:
        return f"{column}::varchar"
    target = _type_inside(kind, file_format)
    held = column if target == str(kind) else f"{column}::{target}"
    return f"to_json({held})::varchar" if file_format == "csv" and target != "VARCHAR" else held


def _type_inside(kind: DuckDBPyType, file_format: str) -> str:
    """Return, as SQL, the type that a nested value is cast to: all that the format lacks is text."""
    if kind.id in NUMBERS or kind.id in HELD_INSIDE[file_format]:
        return str(kind)
    if kind.id not in NESTED:
        return "VARCHAR"
    inside: list[Any] = [child for _, child in kind.children]
    if kind.id == "array":
        return f"{_type_inside(inside[0], file_format)}[{inside[1]}]"
    types = [_type_inside(child, file_format) for child in inside]
    if kind.id == "list":
        target = f"{types[0]}[]"
    elif kind.id == "map":
        # Keys of objects in JSON are text.
        target = f"MAP({'VARCHAR' if file_format in {'csv', 'json'} else types[0]}, {types[1]})"
    elif types and types == [str(child) for child in inside]:
        target = str(kind)
    elif kind.id == "struct" and types:
        fields = zip((name for name, _ in kind.children), types, strict=True)
        target = f"STRUCT({', '.join(f'{identifier(name)} {held}' for name, held in fields)})"
    else:
        target = "VARCHAR"  # a struct without fields, or without their names
    return target
