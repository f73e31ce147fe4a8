"""The vocabulary that languages share, and whether routing follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.metrics.frame import metric_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import polars as pl


def vocabulary_overlap(connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None) -> pl.DataFrame:
    """Return how many token ids, and how much of their tokens, each pair of languages shares."""
    return metric_frame(connection, "vocabulary_overlap", languages=languages)


def divergence_vs_vocabulary(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return, at each layer, the correlation of divergence with shared vocabulary over language pairs."""
    return metric_frame(connection, "divergence_vs_vocabulary", languages=languages, layers=layers)
