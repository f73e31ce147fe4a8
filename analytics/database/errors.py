"""What DuckDB raises, as the errors that moetrace raises on purpose."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from moetrace.store.errors import MoetraceError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


_OF_THE_STORE = re.compile(r"\b(?:StoreError|UnreadableError): ")


class QueryError(MoetraceError):
    """A query is not valid SQL, or does what a query over a store may not do."""


@contextmanager
def translate_duckdb_errors() -> Iterator[None]:
    """Turn what DuckDB raises into a StoreError where a file of the store is damaged, else a QueryError.

    A relation is computed when its rows are fetched: what fetches belongs inside too.
    """
    try:
        yield
    except duckdb.Error as error:
        text = str(error).strip()
        if of_the_store := _OF_THE_STORE.search(text):
            raise StoreError(text[of_the_store.end() :].splitlines()[0]) from error
        kind, _, rest = text.partition(": ")
        raise QueryError(f"{kind.removesuffix(' Error').lower()}: {rest}" if rest else text) from error
