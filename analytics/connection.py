"""A store opened in DuckDB: its tables under their names, and every view and macro of sql/ over them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from analytics.documentation import in_dependency_order, views
from store import RunRecord, ShardFile, Store
from store.schema import ADDED_COLUMNS, TABLE_NAMES, tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIDEST = 1 << 16  # experts a layer: the widest column type a run can have


def connect(store: str | Path | Store) -> duckdb.DuckDBPyConnection:
    """Open a store in an in-memory database; raise StoreError where it cannot be read.

    What is seen are the shards that are committed at this moment. Roll-ups are read and added up now, everything else
    when it is asked for. A cursor of the connection sees the same views.
    """
    opened = store if isinstance(store, Store) else Store(store)
    connection = duckdb.connect()
    connection.execute("set enable_progress_bar = false")
    # Metrics are sums over unordered rows; keeping insertion order would only cost memory.
    connection.execute("set preserve_insertion_order = false")
    connection.execute("begin")
    connection.execute("create schema files")
    for table in TABLE_NAMES:
        _create_files_view(connection, opened, table)
    for item in in_dependency_order(views().values()):
        connection.execute(item.sql)
        if item.kind == "macro":
            connection.execute(f"create or replace view {item.name} as from {item.name}()")
        elif item.name in _RECORDS:
            _insert(connection, item.name, _RECORDS[item.name](opened))
    connection.execute("commit")
    return connection


def _create_files_view(connection: duckdb.DuckDBPyConnection, store: Store, table: str) -> None:
    """Create files.<table>: what read_parquet makes of the committed files, or an empty table of the same columns."""
    found = _widest_first(store, store.files(table))
    if not found:
        schema = tables(WIDEST)[table].schema
        keys = pa.schema([("run", pa.string()), ("lang", pa.string()), ("shard", pa.int32())])
        empty = pa.schema([*keys, *schema]).empty_table()
        connection.register("empty", empty)
        connection.execute(f"create table files.{table} as from empty")
        connection.unregister("empty")
        return
    paths = ",\n".join(f"'{_escaped(file.path)}'" for file in found)
    # The end of the path, not hive_partitioning: the store may itself lie under a folder called key=value.
    connection.execute(
        f"""
        create view files.{table} as
        select
            regexp_extract(filename, 'run=([^/]+)/lang=[^/]+/[0-9]+[.]parquet$', 1) as run,
            regexp_extract(filename, 'lang=([^/]+)/[0-9]+[.]parquet$', 1) as lang,
            regexp_extract(filename, '([0-9]+)[.]parquet$', 1)::integer as shard,
            * exclude (filename){_missing_columns(store, table)}
        from read_parquet([{paths}], filename = true, hive_partitioning = false)
        """
    )


def _missing_columns(store: Store, table: str) -> str:
    """Return, as SQL, the columns that a store of an older format lacks."""
    missing = [
        f", {value} as {name}"
        for version, columns in ADDED_COLUMNS.items()
        for name, value in columns.get(table, {}).items()
        if version > store.version
    ]
    return "".join(missing)


def _widest_first(store: Store, found: Sequence[ShardFile]) -> list[ShardFile]:
    """Order files so that the first has the widest `expert` column: DuckDB takes every file's types from the first."""
    return sorted(found, key=lambda file: -store.runs[file.run].num_experts)


def _escaped(path: Path) -> str:
    return path.absolute().as_posix().replace("'", "''")


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[object]]) -> None:
    if rows:
        # One statement: a statement a row takes a millisecond each, and an Arrow table makes DuckDB import pandas.
        row = f"({', '.join('?' * len(rows[0]))})"
        values = [value for found in rows for value in found]
        connection.execute(f"insert into {table} values {', '.join([row] * len(rows))}", values)


def _runs(store: Store) -> list[tuple[object, ...]]:
    return [_run(record) for record in store.runs.values()]


def _run(record: RunRecord) -> tuple[object, ...]:
    model, routing = record.model, record.routing
    return (
        record.run,
        record.sha256(),
        model.get("id"),
        model.get("revision"),
        model.get("config_sha256"),
        model.get("family"),
        model.get("num_layers"),
        record.num_experts,
        record.top_k,
        model.get("dtype"),
        model.get("parameters"),
        model.get("parameters_per_expert"),
        routing.get("scoring"),
        routing.get("normalized"),
        routing.get("scale"),
        routing.get("selection_bias"),
        record.corpus.get("pivot"),
    )


def _moe_layers(store: Store) -> list[tuple[object, ...]]:
    return [
        (record.run, layer, ordinal)
        for record in store.runs.values()
        for ordinal, layer in enumerate(sorted(record.moe_layers))
    ]


def _shards(store: Store) -> list[tuple[object, ...]]:
    return [
        (
            commit.run,
            commit.lang,
            commit.shard,
            commit.sequences,
            commit.tokens,
            sum(file.bytes for file in commit.files),
            datetime.fromisoformat(commit.created).astimezone(UTC).replace(tzinfo=None),
        )
        for commit in store.commits
    ]


_RECORDS = {"runs": _runs, "moe_layers": _moe_layers, "shards": _shards}
