"""Whole layers: their zones, and how much they tell languages apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.metrics.frame import metric_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    import duckdb
    import polars as pl

    from moetrace.analytics.metrics.filters import Filters


def zones(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return the zone of each MoE layer: shallow, middle or deep."""
    return metric_frame(connection, "zones")


def zones_auto(connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the zone of each MoE layer where zones are cut by the divergence of `languages` (all where None)."""
    return metric_frame(connection, "zones_auto", languages=languages)


def language_specialization(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return how much the expert tells about the language of a token, at each layer."""
    return metric_frame(connection, "language_specialization", languages=languages, layers=layers, **filters)
