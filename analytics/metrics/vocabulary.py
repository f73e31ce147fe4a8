"""The vocabulary that languages share, and whether routing follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.metrics.frame import metric_frame, permutation_arguments, traced_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

KEYS = ["run", "layer", "lang_a", "lang_b"]


def vocabulary_overlap(connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None) -> pl.DataFrame:
    """Return how many token ids, and how much of their tokens, each pair of languages shares."""
    return metric_frame(connection, "vocabulary_overlap", languages=languages)


def divergence_vs_vocabulary(
    connection: duckdb.DuckDBPyConnection,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> pl.DataFrame:
    """Return, at each layer, the correlation of divergence with shared vocabulary over language pairs, and Mantel's p.

    Memory grows with permutations x language pairs, at about 50 bytes each. Raises MoetraceError for fewer than 0
    permutations.
    """
    permuted = permutation_arguments(permutations, seed)
    return metric_frame(connection, "divergence_vs_vocabulary", languages=languages, layers=layers, **permuted)


def divergence_vocabulary_controlled(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return the divergence of each pair of languages at each layer where both have the same token ids as often.

    One layer is read at a time: memory grows with pairs, token ids and experts, and not with layers.
    """
    name = "divergence_vocabulary_controlled"
    asked = [
        metric_frame(connection, name, languages=languages, layers=[layer])
        for layer in traced_layers(connection, layers)
    ]
    return pl.concat(asked or [metric_frame(connection, name, languages=languages, layers=[])]).sort(KEYS)
