"""The experts that each language uses most, and how much the sets of two languages overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.metrics.frame import metric_frame
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    import duckdb
    import polars as pl

    from moetrace.analytics.metrics.filters import Filters


def expert_sets(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the `n` most used experts (the run's top_k where None) of each language and layer."""
    return metric_frame(connection, "expert_sets", n=_checked_size(n), languages=languages, layers=layers, **filters)


def jaccard(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return how much the expert sets of each pair of languages overlap at each layer."""
    return metric_frame(connection, "jaccard", n=_checked_size(n), languages=languages, layers=layers, **filters)


def jaccard_by_layer(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the mean overlap of expert sets at each layer, over language pairs."""
    return metric_frame(
        connection, "jaccard_by_layer", n=_checked_size(n), languages=languages, layers=layers, **filters
    )


def jaccard_by_language(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the mean overlap of each language's expert sets with the others', over layers and languages."""
    return metric_frame(
        connection, "jaccard_by_language", n=_checked_size(n), languages=languages, layers=layers, **filters
    )


def jaccard_by_pair(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the mean overlap of the expert sets of each pair of languages, over layers."""
    return metric_frame(
        connection, "jaccard_by_pair", n=_checked_size(n), languages=languages, layers=layers, **filters
    )


def jaccard_curve(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the mean overlap of expert sets of every size at each layer, beside that of random sets."""
    return metric_frame(connection, "jaccard_curve", languages=languages, layers=layers, **filters)


def _checked_size(n: int | None) -> int | None:
    if n is not None and n < 1:
        raise MoetraceError(f"n = {n}: a set of experts has at least 1 member")
    return n
