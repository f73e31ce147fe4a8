"""Bootstrap intervals: how far a metric would vary if other texts of the same kind had been traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.analytics.uncertainty.samples import find_samples
from moetrace.analytics.uncertainty.statistics import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import polars as pl


def bootstrap(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    **arguments: Any,
) -> pl.DataFrame:
    """Return a metric with percentile bootstrap intervals over texts.

    metric: jaccard (argument n), divergence, specificity, routing_entropy or pivot_similarity (argument pivot_lang)
    columns: layer, the metric's keys, its value as the view has it, lower and upper (the interval's ends at `level`),
    error (standard deviation of the replicates)

    Text ids are drawn with replacement, as many as there are, the same for all languages. Needs routes, or, for
    pivot_similarity, profiles. Source: Efron (1979); paired over text ids as translations are.

    Raises UnknownNameError for an unknown metric, run, language or layer, MoetraceError where the run lacks what it
    needs.
    """
    import polars as pl  # noqa: PLC0415

    texts, samples_by_layer = find_samples(connection, metric, run, languages, layers, arguments)
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [
            np.bincount(rng.integers(0, texts.id_count, texts.id_count), minlength=texts.id_count)
            for _ in range(replicates)
        ]
    )
    weights, once = drawn.astype(np.uint16), np.ones((1, texts.id_count), dtype=np.uint16)
    rows = []
    for layer, samples in samples_by_layer:
        values = samples.weighted(once)
        replicated = samples.weighted(weights)
        for key, (value,) in values.items():
            found = replicated[key]
            lower, upper = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
            rows.append((layer, *key, float(value), float(lower), float(upper), float(np.nanstd(found))))
    keys = ["layer", *METRICS[metric].keys]
    columns = [*keys, METRICS[metric].column, "lower", "upper", "error"]
    return pl.DataFrame(rows, schema=columns, orient="row").sort(keys)
