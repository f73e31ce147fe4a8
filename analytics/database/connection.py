"""A store opened in DuckDB: its tables under their names, and every view and macro of sql/ over them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from moetrace.analytics.database.documentation import in_dependency_order, sql_files
from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.quoting import identifier, literal
from moetrace.store.errors import StoreError
from moetrace.store.format.schema import ADDED_COLUMNS, TABLE_NAMES, tables
from moetrace.store.read.reader import Store
from moetrace.store.read.verified import VerifiedFiles, verified_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from moetrace.store.format.records import RunRecord
    from moetrace.store.read.catalog import ShardFile


MOST_EXPERTS = 1 << 16  # of a layer: makes `expert` the widest type that a run can have
SQL_TYPES = {  # the types that tables of a store have: Arrow's name -> DuckDB's
    "bool": "boolean",
    "double": "double",
    "float": "float",
    "int32": "integer",
    "int64": "bigint",
    "string": "varchar",
    "uint16": "usmallint",
    "uint8": "utinyint",
}


_WRONG_ROLLUPS = """
    select run, lang
    from usage_by_language
    join (select run, count(*) as layers from moe_layers group by run) using (run)
    join runs using (run)
    left join moe_layers using (run, layer)
    group by run, lang
    having
        count(*) <> any_value(layers * num_experts)
        or bool_or(
            moe_layers.ordinal is null
            or expert is null
            or expert not between 0 and num_experts - 1
            or usage_by_language.count is null
            or usage_by_language.count < 0
        )
    order by run, lang
    limit 1
"""


def connect(
    place: str | Path | Store, *, locked: bool = True, settings: Mapping[str, str | float] | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a store in DuckDB, in memory, with every view and macro over it.

        con = moetrace.connect("my-store")
        con.sql("select * from jaccard(n := 16) where lang_a = 'eng_Latn'").pl()

    `place` is the store's folder or URL, or a Store that is open. What comes back is a connection of DuckDB itself, to
    be closed or used in a `with` block; a cursor of it (one for each thread) sees the same views. `moetrace views`
    lists what can be asked, `moetrace views NAME` gives columns, units and formula. Rows carry `run`, because a store
    holds several.

    The connection is `locked`: whatever a query says, it reads the committed files of the store and no other file or
    URL, writes none, loads no extension, and changes no setting of DuckDB. A frame of yours is a table once it has a
    name: `con.register("mine", frame)`. `settings` are DuckDB's own, such as {"memory_limit": "4GB", "threads": 4}.
    With `locked=False`, for queries that are your own, DuckDB reads and writes whatever you may.

    What is seen are the shards that are committed at this moment; connect again to see later ones. Roll-ups are read
    and added up now, everything else when it is asked for. Every block that DuckDB reads is held against its checksum
    first, so that a damaged file is an error and never a wrong number.

    Raises StoreError where the store, or a roll-up of it, cannot be read, QueryError for settings that DuckDB does not
    have. Queries raise what DuckDB raises, a duckdb.Error that names the file where one is damaged.
    """
    opened = place if isinstance(place, Store) else Store(place)
    with translate_duckdb_errors():
        connection = duckdb.connect(config=dict(settings or {}))
    try:
        prepare(connection, opened, locked=locked)
        create_views(connection, opened)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(
    connection: duckdb.DuckDBPyConnection, opened: Store, *, locked: bool = True, readable: Iterable[str] = ()
) -> None:
    """Give a database the store's files, and lock it before anything that the store says becomes a part of it.

    readable: paths of files that it may read besides the committed files as they are checked
    """
    with translate_duckdb_errors():
        connection.register_filesystem(VerifiedFiles(opened, opened.added_up.contents))
        connection.execute("set enable_progress_bar = false")
        # Metrics are sums over unordered rows; keeping insertion order would only cost memory.
        connection.execute("set preserve_insertion_order = false")
        if locked:
            checked = [verified_url(path) for path in _committed_paths(opened)]
            connection.execute("set allowed_paths = $paths", {"paths": [*checked, *readable]})
            connection.execute("set enable_external_access = false")
            connection.execute("set lock_configuration = true")


def create_views(connection: duckdb.DuckDBPyConnection, opened: Store) -> None:
    """Put the tables of a store and every view over them into an empty database that was prepared for it."""
    with translate_duckdb_errors():
        connection.execute("begin")
        connection.execute("create schema files")
        for table in TABLE_NAMES:
            create_files_view(connection, opened, table, opened.files(table))
        _create_rollups_view(connection, opened)
        for item in in_dependency_order(sql_files().values()):
            connection.execute(item.sql)
            if item.kind == "macro":
                name = identifier(item.name)
                connection.execute(f"create or replace view {name} as from {name}()")
            elif item.name in _ROWS_OF_RECORDS:
                _insert(connection, item.name, _ROWS_OF_RECORDS[item.name](opened))
        _check_rollups(connection, opened)
        connection.execute("commit")


def _check_rollups(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Raise StoreError where roll-ups are not what their run has: checksums say who wrote them as little as what."""
    wrong = connection.execute(_WRONG_ROLLUPS).fetchone()
    if wrong is not None:
        raise StoreError(
            f"{store.url}: the roll-ups of {wrong[1]} of run '{wrong[0]}' do not have a count for each expert of each "
            "layer; see `moetrace verify`"
        )


def create_files_view(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    name: str,
    files: Sequence[ShardFile],
    table: str = "",
    *,
    verified: bool = True,
) -> None:
    """Create files.<name>: what read_parquet makes of some files of a table, or an empty table of the same columns.

    Files are read through the filesystem that checks them, or, not `verified`, where any client of DuckDB finds them.
    """
    table = table or name
    if not files:
        _create_empty(connection, name, [("run", pa.string()), ("lang", pa.string()), ("shard", pa.int32())], table)
        return
    by_version: dict[int, list[ShardFile]] = {}
    for file in files:
        by_version.setdefault(file.version, []).append(file)
    parts = (
        _select([verified_url(file.path) if verified else file.location for file in ordered], table, version)
        for version, found in sorted(by_version.items())
        for ordered in (_widest_first(store, found),)
    )
    view = f"files.{identifier(name)}"
    connection.execute(f"create or replace view {view} as\n" + "\nunion all by name\n".join(parts))


def _committed_paths(store: Store) -> list[str]:
    """Return the path, in the store, of every file that a view reads."""
    shards = [file.path for table in TABLE_NAMES for file in store.files(table)]
    return shards + [compacted.path for compacted in store.rollups()[0]] + list(store.added_up.contents)


def _select(urls: Sequence[str], table: str, version: int) -> str:
    # The end of the path, not hive_partitioning: a run's name may hold what would be taken for a date or a number.
    return f"""
        select
            regexp_extract(filename, 'run=([^/]+)/lang=[^/]+/[^/]+$', 1) as run,
            regexp_extract(filename, 'lang=([^/]+)/[^/]+$', 1) as lang,
            regexp_extract(filename, '/([0-9]+)[^/]*$', 1)::integer as shard,
            * exclude (filename){_missing_columns(table, version)}
        from {_read_parquet(urls)}
        """


def _read_parquet(urls: Sequence[str]) -> str:
    names = ",\n".join(literal(url) for url in urls)
    return f"read_parquet([{names}], filename = true, hive_partitioning = false)"


def _create_rollups_view(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Create files.rollups: roll-ups to add up by run and language, compacted ones in place of their shards."""
    create_files_view(connection, store, "usage_not_added_up", store.added_up.rest, "usage")
    parts = ["from files.usage_not_added_up select * exclude (shard)"]
    for found in sorted(
        store.rollups()[0] + store.added_up.rollups, key=lambda found: -store.runs[found.run].num_experts
    ):
        languages = ", ".join(literal(lang) for lang in found.languages)
        rows = _read_parquet([verified_url(found.path)])
        parts.append(
            f"select {literal(found.run)} as run, * exclude (filename) from {rows} where lang in ({languages})"
        )
    connection.execute("create view files.rollups as\n" + "\nunion all by name\n".join(parts))


def _create_empty(
    connection: duckdb.DuckDBPyConnection, name: str, keys: Sequence[tuple[str, pa.DataType]], table: str
) -> None:
    # Types in words: an Arrow table makes DuckDB import pandas.
    fields = pa.schema([*pa.schema(keys), *tables(MOST_EXPERTS)[table].schema])
    columns = ", ".join(f"{identifier(field.name)} {SQL_TYPES[str(field.type)]}" for field in fields)
    connection.execute(f"create table files.{identifier(name)} ({columns})")


def _missing_columns(table: str, version: int) -> str:
    """Return, as SQL, the columns that files of an older format version lack."""
    missing = [
        f", {value} as {identifier(name)}"
        for added, columns in ADDED_COLUMNS.items()
        for name, value in columns.get(table, {}).items()
        if added > version
    ]
    return "".join(missing)


def _widest_first(store: Store, found: Sequence[ShardFile]) -> list[ShardFile]:
    """Order files so that the first has the widest `expert` column: DuckDB takes every file's types from the first."""
    return sorted(found, key=lambda file: -store.runs[file.run].num_experts)


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[object]]) -> None:
    if rows:
        # A list a column: a statement or a parameter a value takes long, and an Arrow table makes DuckDB import pandas.
        columns = [list(column) for column in zip(*rows, strict=True)]
        connection.execute(f"insert into {identifier(table)} select {', '.join(['unnest(?)'] * len(columns))}", columns)


def _run_rows(store: Store) -> list[tuple[object, ...]]:
    return [_run_row(record) for record in store.runs.values()]


def _run_row(record: RunRecord) -> tuple[object, ...]:
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
        record.parallel,
        record.special_token_ids,
        record.nominal_tokens,
        record.tables,
    )


def _moe_layer_rows(store: Store) -> list[tuple[object, ...]]:
    return [
        (record.run, layer, ordinal)
        for record in store.runs.values()
        for ordinal, layer in enumerate(sorted(record.moe_layers))
    ]


def _shard_rows(store: Store) -> list[tuple[object, ...]]:
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


_ROWS_OF_RECORDS = {"runs": _run_rows, "moe_layers": _moe_layer_rows, "shards": _shard_rows}
