"""The null model: what a metric would be if it made no difference which language a text is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.analytics.uncertainty.samples import find_samples
from moetrace.analytics.uncertainty.statistics import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import polars as pl


def null_model(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    permutations: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    **arguments: Any,
) -> pl.DataFrame:
    """Return a metric with what it is when the languages of each text id are permuted at random.

    columns: layer, the metric's keys, its value over the texts that all `languages` have, null_mean, null_lower,
    null_upper (at `level`), p_value (share of permutations at least as far from their mean as the value is, the value
    counted among them)

    What lies within the null's interval is no difference between languages. Only texts that all chosen languages have
    can be permuted. Cost grows with the square of the number of languages. Raises as `bootstrap`.
    """
    import polars as pl  # noqa: PLC0415

    texts, samples_by_layer = find_samples(connection, metric, run, languages, layers, arguments)
    shared_ids, languages_in_order = texts.shared_ids(), np.arange(len(texts.languages), dtype=np.uint8)
    rng = np.random.default_rng(seed)
    shape = (len(shared_ids), len(texts.languages))
    orders = rng.permuted(np.broadcast_to(languages_in_order, (permutations, *shape)), axis=2)
    orders = np.concatenate([np.broadcast_to(languages_in_order, (1, *shape)), orders])
    rows = []
    for layer, samples in samples_by_layer:
        for key, values in samples.permuted(shared_ids, orders).items():
            value, null = float(values[0]), values[1:]
            lower, upper = np.quantile(null, [(1 - level) / 2, (1 + level) / 2])
            mean = float(null.mean())
            # Rounding must not make a permutation that changes nothing look nearer than the value itself.
            as_far = int(np.sum(np.abs(null - mean) >= abs(value - mean) * (1 - 1e-12)))
            p_value = (1 + as_far) / (1 + len(null))
            rows.append((layer, *key, value, mean, float(lower), float(upper), p_value))
    keys = ["layer", *METRICS[metric].keys]
    columns = [*keys, METRICS[metric].column, "null_mean", "null_lower", "null_upper", "p_value"]
    return pl.DataFrame(rows, schema=columns, orient="row").sort(keys)
