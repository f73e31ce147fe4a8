"""What needs single texts or tokens, where roll-ups are not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.metrics.frame import metric_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

_TOKEN_LAYERS = 1 << 22  # tokens x layers that are looked at together, at about 50 bytes an expert of each


def pivot_similarity(
    connection: duckdb.DuckDBPyConnection,
    pivot_lang: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how alike texts and their translations in the pivot language are routed (the run's pivot where None)."""
    return metric_frame(connection, "pivot_similarity", pivot_lang=pivot_lang, languages=languages, layers=layers)


def routing_consistency(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return how many experts a token shares with the token before it, by language and layer.

    One language, and no more of its layers than memory holds, is read at a time: memory does not grow with the store.
    """
    asked = [
        metric_frame(connection, "routing_consistency", languages=[lang], layers=some)
        for lang, some in _parts(connection, languages, layers)
    ]
    empty = metric_frame(connection, "routing_consistency", languages=[], layers=[])
    return pl.concat([empty, *asked]).sort(["run", "lang", "layer"])


def _parts(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None, layers: Sequence[int] | None
) -> Iterator[tuple[str, list[int]]]:
    """Yield every (language, some layers) of at most _TOKEN_LAYERS tokens x layers, one layer at least."""
    with translate_duckdb_errors():
        tokens = connection.execute("select lang, sum(tokens) from languages group by lang order by lang").fetchall()
        traced = connection.execute("select distinct layer from moe_layers order by layer").fetchall()
    wanted = [layer for (layer,) in traced if layers is None or layer in layers]
    for lang, number in tokens:
        if languages is None or lang in languages:
            at_once = max(_TOKEN_LAYERS // max(number, 1), 1)
            for start in range(0, len(wanted), at_once):
                yield lang, wanted[start : start + at_once]
