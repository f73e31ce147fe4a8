"""What SQL says of a store that may be damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from pathlib import Path

QUERIES = {  # by the table that each reads the whole of
    "routes": "select layer, sum(expert), sum(weight), sum(token), sum(rank) from routes group by all order by all",
    "tokens": "select sum(token), sum(seq), sum(position), sum(token_id), sum(generated::int) from tokens",
    "sequences": "select sum(seq), string_agg(text_id, ',' order by lang, seq), sum(tokens) from sequences",
    "profiles": "select layer, expert, sum(seq), sum(probability) from profiles group by all order by all",
    "usage": "select * from usage_by_language order by all",
}


def answers(store: Path, query: str) -> list[tuple[Any, ...]] | None:
    """Return what SQL says; None where it refuses to."""
    try:
        return connect(store).sql(query).fetchall()
    except (MoetraceError, duckdb.Error):
        return None
