"""What needs single texts or tokens, where roll-ups are not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.metrics.frame import chunks, metric_frame, traced_layers
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

_TOKEN_LAYERS = 1 << 22  # tokens x layers that are looked at together, at about 50 bytes an expert of each
_PAIR_LAYERS = 1 << 23  # pairs of texts x layers that are compared together, at about 100 bytes each
_TEXT_CELLS = 1 << 24  # texts x layers x experts of one language that are held together, at about 50 bytes each


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

    `excess` is how much more alike than with translations of other texts, over `derangements` mispairings. No more
    languages and layers than memory holds are compared at a time. Raises MoetraceError where the text ids of all runs
    are not parallel, and for fewer than 0 derangements.
    """
    if derangements < 0:
        raise MoetraceError(f"derangements = {derangements}: 0 is none, 3 the default")
    pivot = pivot_lang or _only_pivot(connection)
    parts = list(_pair_parts(connection, languages, layers, derangements, bundled=pivot is not None))
    given = {"pivot_lang": pivot if len(parts) > 1 else pivot_lang, "derangements": derangements}
    if len(parts) <= 1:
        return metric_frame(connection, "pivot_similarity", languages=languages, layers=layers, **given)
    found = [metric_frame(connection, "pivot_similarity", languages=some, layers=at, **given) for some, at in parts]
    return pl.concat(found).sort(["run", "lang", "layer"])


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


def _pair_parts(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None,
    layers: Sequence[int] | None,
    derangements: int,
    *,
    bundled: bool,
) -> Iterator[tuple[list[str], list[int]]]:
    """Yield every (some languages, some layers) whose pairs of texts, and whose pivot texts, memory holds.

    Not `bundled`, all languages are compared together: where it is not known which language is the pivot, its texts are
    looked for in the files of all.
    """
    with translate_duckdb_errors():
        texts = connection.execute("select lang, sum(sequences) from languages group by lang order by lang").fetchall()
        ((experts,),) = connection.execute("select coalesce(max(num_experts), 1) from runs").fetchall()
    pairs = {lang: number * (1 + derangements) for lang, number in texts if languages is None or lang in languages}
    largest = max((number for _, number in texts), default=1)
    at_once = min(_TEXT_CELLS // max(largest * experts, 1), _PAIR_LAYERS // max(*pairs.values(), 1, 1))
    for some in chunks(traced_layers(connection, layers), at_once):
        bundle: list[str] = []
        size = 0
        for lang, number in pairs.items():
            if bundled and bundle and (size + number) * len(some) > _PAIR_LAYERS:
                yield bundle, some
                bundle, size = [], 0
            bundle.append(lang)
            size += number
        if bundle:
            yield bundle, some


def _only_pivot(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Return the pivot language of every run, None where they differ."""
    with translate_duckdb_errors():
        pivots = connection.execute("select distinct pivot_lang from runs").fetchall()
    return pivots[0][0] if len(pivots) == 1 else None
