"""Every metric of sql/3_metrics as a polars frame: one function a view, with the view's name and its macro's arguments.

The definitions, columns, ranges and sources stand in the SQL files; `moetrace views NAME` prints them. Frames are
sorted by their columns, from left to right, and hold every run of the store. Where there is no row because no run was
traced with what the metric needs, MoetraceError says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analytics.connection import in_words
from analytics.query import missing_inputs
from store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import polars as pl


def activation(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return how often, and with what weight, each language uses each expert."""
    return _frame(connection, "activation")


def expert_sets(connection: duckdb.DuckDBPyConnection, n: int | None = None) -> pl.DataFrame:
    """Return the `n` most used experts (the run's top_k where None) of each language and layer."""
    return _frame(connection, "expert_sets", n=_set_size(n))


def jaccard(connection: duckdb.DuckDBPyConnection, n: int | None = None) -> pl.DataFrame:
    """Return how much the expert sets of each pair of languages overlap at each layer."""
    return _frame(connection, "jaccard", n=_set_size(n))


def jaccard_by_layer(connection: duckdb.DuckDBPyConnection, n: int | None = None) -> pl.DataFrame:
    """Return the mean overlap of expert sets at each layer, over language pairs."""
    return _frame(connection, "jaccard_by_layer", n=_set_size(n))


def jaccard_by_language(connection: duckdb.DuckDBPyConnection, n: int | None = None) -> pl.DataFrame:
    """Return the mean overlap of each language's expert sets with the others', over layers and languages."""
    return _frame(connection, "jaccard_by_language", n=_set_size(n))


def jaccard_by_pair(connection: duckdb.DuckDBPyConnection, n: int | None = None) -> pl.DataFrame:
    """Return the mean overlap of the expert sets of each pair of languages, over layers."""
    return _frame(connection, "jaccard_by_pair", n=_set_size(n))


def routing_entropy(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return how evenly each language's tokens spread over the experts of each layer."""
    return _frame(connection, "routing_entropy")


def divergence(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return the Jensen-Shannon divergence of each pair of languages at each layer."""
    return _frame(connection, "divergence")


def pivot_similarity(connection: duckdb.DuckDBPyConnection, pivot_lang: str | None = None) -> pl.DataFrame:
    """Return how alike texts and their translations in the pivot language are routed (the run's pivot where None)."""
    return _frame(connection, "pivot_similarity", pivot_lang=pivot_lang)


def specificity(
    connection: duckdb.DuckDBPyConnection, alpha: float = 10, languages: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return how much more each language uses each expert than `languages` (all where None) do on average."""
    return _frame(connection, "specificity", alpha=alpha, languages=_names(languages))


def overlap(
    connection: duckdb.DuckDBPyConnection, alpha: float = 10, languages: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return how evenly `languages` (all where None) use each expert."""
    return _frame(connection, "overlap", alpha=alpha, languages=_names(languages))


def zones(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return the zone of each MoE layer: shallow, middle or deep."""
    return _frame(connection, "zones")


def _frame(connection: duckdb.DuckDBPyConnection, name: str, **arguments: object) -> pl.DataFrame:
    given = ", ".join(f"{argument} := ${argument}" for argument in arguments)
    call = f"{name}({given})" if arguments else name
    with in_words():
        frame: pl.DataFrame = connection.sql(f"from {call} order by all", params=arguments or None).pl()
    if frame.is_empty() and (missing := missing_inputs(connection, name)):
        raise MoetraceError("; ".join(missing))
    return frame


def _set_size(n: int | None) -> int | None:
    if n is not None and n < 1:
        raise MoetraceError(f"n = {n}: a set of experts has at least 1 member")
    return n


def _names(languages: Sequence[str] | None) -> list[str] | None:
    return None if languages is None else list(languages)
