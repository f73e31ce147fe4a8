"""A store's views as one database file that any client of DuckDB opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from moetrace.analytics.database.connection import create_files_view, create_views, prepare
from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.store.errors import StoreError
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.output import written_whole
from moetrace.store.read.reader import Store

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage

PATTERNS = "*?["  # what DuckDB takes for a pattern in the name of a file


def write_database(store: str | Path | Storage | Store, output: str | Path) -> Path:
    """Write a new DuckDB file with every view and macro over a store, and return its path.

    Roll-ups and records are in the file, made of checked bytes; routes, tokens, sequences, profiles and usage are read
    from where the store's files lie now, by DuckDB itself, which does not check them: whoever opens the file trusts
    what lies there (`moetrace verify` checks it). The client has to be DuckDB 2.0 or newer and, for a store at a URL,
    to have an extension for it. What is seen is what is committed at this moment.

    Raises StoreError where `output` exists, and for a store whose path DuckDB would take for a pattern; OutputError
    where `output` cannot be written.
    """
    opened = store if isinstance(store, Store) else Store(store)
    path = Path(output)
    if path.exists():
        raise StoreError(f"{path}: exists already; remove it, or choose another name")
    locations = [file.location for table in TABLE_NAMES for file in opened.files(table)]
    if found := [letter for letter in PATTERNS if any(letter in location for location in locations)]:
        raise StoreError(
            f"{opened.url}: has {' and '.join(found)} in its path, which DuckDB takes for a pattern; move the store, "
            "or query it with `moetrace sql`"
        )
    with written_whole(path) as staged:
        try:
            _write(opened, staged, locations)
        except duckdb.IOException as error:
            raise OSError(str(error).strip().replace(str(staged), str(path))) from error
        finally:
            staged.with_name(f"{staged.name}.wal").unlink(missing_ok=True)
    return path


def _write(opened: Store, path: Path, locations: list[str]) -> None:
    with duckdb.connect(path) as connection:
        prepare(connection, opened)
        create_views(connection, opened)
    # A second time, as the first lock stays: DuckDB looks at a file when a view of it is made. At a URL it needs an
    # extension to look, which no locked connection may load; of what the store says it now gets paths and no more.
    with duckdb.connect(path) as connection, translate_duckdb_errors():
        prepare(connection, opened, locked="://" not in opened.url, readable=locations)
        for table in TABLE_NAMES:
            if files := opened.files(table):
                create_files_view(connection, opened, table, files, verified=False)
        connection.execute("drop view files.rollups")
        connection.execute(f"drop {'view' if opened.added_up.rest else 'table'} files.usage_not_added_up")
