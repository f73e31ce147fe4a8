"""How each language spreads its tokens over the experts of a layer, and how far two languages differ in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.metrics.frame import metric_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    import duckdb
    import polars as pl

    from moetrace.analytics.metrics.filters import Filters


def activation(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return how often, and with what weight, each language uses each expert."""
    return metric_frame(connection, "activation", languages=languages, layers=layers, **filters)


def routing_entropy(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return how evenly each language's tokens spread over the experts of each layer."""
    return metric_frame(connection, "routing_entropy", languages=languages, layers=layers, **filters)


def divergence(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the Jensen-Shannon divergence of each pair of languages at each layer."""
    return metric_frame(connection, "divergence", languages=languages, layers=layers, **filters)


def divergence_by_layer(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the mean divergence of all pairs of languages at each layer: the convergence-divergence curve."""
    return metric_frame(connection, "divergence_by_layer", languages=languages, layers=layers, **filters)
