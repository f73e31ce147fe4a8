"""Worlds written into a store that is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.database.connection import connect
from tests.support.stores import World, write_world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb


def open_worlds(path: Path, worlds: Sequence[World], texts_in_shard: int = 3) -> duckdb.DuckDBPyConnection:
    """Write each world as a run of one store and open the store."""
    for world in worlds:
        store = write_world(path, world, texts_in_shard)
    return connect(store)
