"""What needs single texts or tokens, where roll-ups are not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import check_languages
from moetrace.analytics.metrics.frame import chunks, metric_frame, traced_layers
from moetrace.analytics.metrics.translations import compare_translations
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

_TOKEN_LAYERS = 1 << 22  # tokens x layers that are looked at together, at about 50 bytes an expert of each


def corpus_profile(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return what the texts of each language are made of: tokens, fertility, generated, special and repeated ones."""
    return metric_frame(connection, "corpus_profile")


def pivot_similarity(
    connection: duckdb.DuckDBPyConnection,
    pivot_lang: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    derangements: int = 3,
) -> pl.DataFrame:
    """Return how alike texts and their translations in the pivot language are routed (the run's pivot where None).

    `excess` is how much more alike than with translations of other texts, over `derangements` mispairings. The numbers
    are the view's, within rounding; no more layers of two languages than memory holds are compared at a time. Raises
    MoetraceError where the text ids of all runs are not parallel, and for fewer than 0 derangements.
    """
    if derangements < 0:
        raise MoetraceError(f"derangements = {derangements}: 0 is none, 3 the default")
    if languages is not None:
        check_languages(connection, languages)
    found = compare_translations(connection, pivot_lang, languages, layers, derangements)
    return metric_frame(connection, "pivot_similarity", languages=[], layers=[]) if found.is_empty() else found


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
    for lang, number in tokens:
        if languages is None or lang in languages:
            for some in chunks(traced_layers(connection, layers), _TOKEN_LAYERS // max(number, 1)):
                yield lang, some
