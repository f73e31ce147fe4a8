"""Single experts: which languages use them, and how evenly."""

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


def specificity(
    connection: duckdb.DuckDBPyConnection,
    alpha: float = 10,
    shrinkage: float = 0,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return how much more each language uses each expert than `languages` (all where None) do on average.

    `shrinkage` decisions are added to both sides, which draws experts with few decisions to 1. Raises MoetraceError
    where it is negative.
    """
    if not shrinkage >= 0:
        raise MoetraceError(f"shrinkage = {shrinkage}: it is a number of decisions, from 0")
    return metric_frame(
        connection, "specificity", alpha=alpha, shrinkage=shrinkage, languages=languages, layers=layers, **filters
    )


def overlap(
    connection: duckdb.DuckDBPyConnection,
    alpha: float = 10,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return how evenly `languages` (all where None) use each expert."""
    return metric_frame(connection, "overlap", alpha=alpha, languages=languages, layers=layers, **filters)


def activation_gap(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return whose each expert is, and how far that language is ahead of the next."""
    return metric_frame(connection, "activation_gap", languages=languages, layers=layers, **filters)


def exclusive_experts(
    connection: duckdb.DuckDBPyConnection,
    threshold: float = 0.5,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    **filters: Unpack[Filters],
) -> pl.DataFrame:
    """Return the experts of which one language holds at least `threshold` of the use."""
    return metric_frame(
        connection, "exclusive_experts", threshold=threshold, languages=languages, layers=layers, **filters
    )
