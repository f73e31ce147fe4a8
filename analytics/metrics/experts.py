"""Single experts: which languages use them, and how evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.metrics.frame import metric_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import polars as pl


def specificity(
    connection: duckdb.DuckDBPyConnection,
    alpha: float = 10,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how much more each language uses each expert than `languages` (all where None) do on average."""
    return metric_frame(connection, "specificity", alpha=alpha, languages=languages, layers=layers)


def overlap(
    connection: duckdb.DuckDBPyConnection,
    alpha: float = 10,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how evenly `languages` (all where None) use each expert."""
    return metric_frame(connection, "overlap", alpha=alpha, languages=languages, layers=layers)


def activation_gap(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return whose each expert is, and how far that language is ahead of the next."""
    return metric_frame(connection, "activation_gap", languages=languages, layers=layers)


def exclusive_experts(
    connection: duckdb.DuckDBPyConnection,
    threshold: float = 0.5,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return the experts of which one language holds at least `threshold` of the use."""
    return metric_frame(connection, "exclusive_experts", threshold=threshold, languages=languages, layers=layers)
