"""A store's views as one database file that any client of DuckDB opens."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from moetrace.analytics.database.connection import create_files_view, create_views
from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.store.errors import StoreError
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.read.reader import Store

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage


def write_database(store: str | Path | Storage | Store, output: str | Path) -> Path:
    """Write a new DuckDB file with every view and macro over a store, and return its path.

    Roll-ups and records are in the file; routes, tokens, sequences, profiles and usage are read from where the store's
    files lie now, by DuckDB itself, which does not check them (`moetrace verify` does). The client has to be DuckDB 2.0
    or newer and, for a store at a URL, to have an extension for it. What is seen is what is committed at this moment.

    Raises StoreError where `output` exists or cannot be written.
    """
    opened = store if isinstance(store, Store) else Store(store)
    path = Path(output)
    if path.exists():
        raise StoreError(f"{path}: exists already; remove it, or choose another name")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: cannot be written (no such folder)")
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with translate_duckdb_errors():
            connection = duckdb.connect(staged)
            create_views(connection, opened)
            for table in TABLE_NAMES:
                if files := opened.files(table):
                    create_files_view(connection, opened, table, files, verified=False)
            connection.execute("drop view files.rollups")
            connection.execute(f"drop {'view' if opened.rollups()[1] else 'table'} files.usage_not_compacted")
            connection.close()
        staged.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        staged.unlink(missing_ok=True)
        staged.with_name(f"{staged.name}.wal").unlink(missing_ok=True)
    return path
