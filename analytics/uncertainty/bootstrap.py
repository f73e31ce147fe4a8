"""Bootstrap intervals: how far a metric would vary if other texts of the same kind had been traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.analytics.uncertainty.bias import (
    covariance_bias,
    divergence_bias,
    entropy_bias,
    jackknife_bias,
    residuals,
    share_covariance,
    share_variance,
)
from moetrace.analytics.uncertainty.intervals import check_interval, interval_of
from moetrace.analytics.uncertainty.products import on_one_thread
from moetrace.analytics.uncertainty.samples import CountSamples, find_samples
from moetrace.analytics.uncertainty.statistics import METRICS, activation_shares
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import duckdb
    import numpy.typing as npt
    import polars as pl

    from moetrace.analytics.uncertainty.intervals import Interval
    from moetrace.analytics.uncertainty.samples import Samples, Weights
    from moetrace.analytics.uncertainty.statistics import Floats, Values

CORRECTED = {
    "divergence": ("jsd_corrected", "jsd_corrected_paired", "jsd_jackknife"),
    "routing_entropy": ("entropy_corrected", "entropy_jackknife"),
}
INTERVALS: dict[str, Interval] = {"jaccard": "percentile", "specificity": "percentile"}  # where not basic
MOST_LEFT_OUT = 200  # parts of the texts that are left out in turn, for a jackknife


def bootstrap(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    document: Callable[[str], str] | None = None,
    replicates: int = 1000,
    interval: Interval | None = None,
    level: float = 0.95,
    seed: int = 0,
    **arguments: Any,
) -> pl.DataFrame:
    """Return a metric with bootstrap intervals over texts.

    metric: jaccard (argument n), divergence, specificity, routing_entropy, pivot_similarity or pivot_excess (argument
    pivot_lang)
    columns: layer, the metric's keys, its value as the view has it, what corrects its bias where that is known, lower
    and upper (the interval's ends at `level`), error (standard deviation of the replicates)

    Text ids are drawn with replacement, as many as there are, the same for all languages, because translations covary;
    where the run's text ids are not parallel, each language's own. `document` says which document a text id belongs
    to: whole documents are then drawn, where texts of one are more alike than others. A replicate without any text of
    a language does not count there. Needs routes, or, for pivot_similarity and pivot_excess, profiles.

    interval: basic, percentile or bca (`intervals.interval_of` has the sources); None: basic, for jaccard and
    specificity percentile, whose basic intervals cover less. Simulated with real texts, 95% intervals of 20, 50 and 200
    texts hold the population's value .90, .92, .94 (divergence), .90, .92, .95 (routing_entropy), .92, .93, .94
    (pivot_similarity), .92, .95, .95 (pivot_excess), but .86, .90, .93 (specificity: too short) and .99, .99, 1.00
    (jaccard: too wide, replicates tie). Less where a few texts hold most of the tokens; docs/statistics.md has more.

    corrected: `entropy_corrected` and `jsd_corrected` as the views have them, by the delta method over texts, which
    takes languages as independent; `jsd_corrected_paired` takes in that translations covary. `entropy_jackknife` and
    `jsd_jackknife` take the bias from what leaving out each text id (or document; a 200th of them where there are
    more) changes, which holds for fewer texts than the delta method does.

    Source: Efron (1979); Davison & Hinkley (1997), chapter 5; jackknife: Quenouille (1956).

    Raises UnknownNameError for an unknown metric, run, language or layer, MoetraceError where the run lacks what it
    needs, and for an interval or a level that there is not.
    """
    import polars as pl  # noqa: PLC0415

    interval = interval or INTERVALS.get(metric, "basic")
    check_interval(interval, level)
    if replicates < 2:
        raise MoetraceError(f"replicates {replicates}: pass at least 2, 1000 or more for an interval")
    texts, samples_by_layer = find_samples(connection, metric, run, languages, layers, arguments)
    unit, units = np.arange(len(texts.names)), len(texts.names)
    if document is not None:
        documents, unit = np.unique([document(name) for name in texts.names], return_inverse=True)
        units = len(documents)
    weights = drawn(np.random.default_rng(seed), units, replicates)[:, unit]
    jackknife = left_out(units)[:, unit] if interval == "bca" or metric in CORRECTED else None
    once = np.ones((1, len(texts.names)), dtype=np.uint16)
    rows = []
    for layer, samples in samples_by_layer:
        with on_one_thread():
            values, replicated = samples.weighted(once), samples.weighted(weights)
            without = {} if jackknife is None else samples.weighted(jackknife)
        corrected = corrections(metric, samples, values, without)
        for key, (value,) in values.items():
            found = replicated[key]
            lower, upper = interval_of(interval, float(value), found, level, without.get(key))
            error = float(np.nanstd(found)) if not np.isnan(found).all() else np.nan
            rows.append((layer, *key, float(value), *corrected.get(key, ()), lower, upper, error))
    keys = ["layer", *METRICS[metric].keys]
    columns = [*keys, METRICS[metric].column, *CORRECTED.get(metric, ()), "lower", "upper", "error"]
    return pl.DataFrame(rows, schema=columns, orient="row").sort(keys)


def drawn(rng: np.random.Generator, units: int, replicates: int) -> Weights:
    """Return how often each of so many units is drawn in each replicate, [replicates, units]."""
    rows = [np.bincount(rng.integers(0, units, units), minlength=units) for _ in range(replicates)]
    return np.stack(rows).astype(np.uint16)


def left_out(units: int) -> Weights:
    """Return weights [J, units] that leave out every unit once, neighbours together where there are many."""
    parts = min(units, MOST_LEFT_OUT)
    part: npt.NDArray[np.intp] = np.arange(units) * parts // units
    weights: Weights = (part[None, :] != np.arange(parts)[:, None]).astype(np.uint16)
    return weights


def corrections(
    metric: str, samples: Samples, values: Values, without: Values
) -> dict[tuple[Any, ...], tuple[float, ...]]:
    """Return, by key, the values without their bias in the order of CORRECTED; empty where the bias is not known.

    values: [1], of all texts; without: [J], with a part of the texts left out each time
    """
    if metric not in CORRECTED or not isinstance(samples, CountSamples):
        return {}
    counts = {lang: found.astype(np.float64) for lang, found in samples.counts.items()}
    shares = {lang: activation_shares(found.sum(axis=0)) for lang, found in counts.items()}
    moved = {lang: residuals(found) for lang, found in counts.items()}
    variance = {lang: share_variance(found) for lang, found in moved.items()}
    found: dict[tuple[Any, ...], tuple[float, ...]] = {}
    for key, (value,) in values.items():
        jackknife = float(value) - jackknife_bias(float(value), without[key])
        if metric == "routing_entropy":
            (lang,) = key
            found[key] = (float(value) + entropy_bias(shares[lang], variance[lang]), jackknife)
            continue
        a, b = key
        independent = float(value) - divergence_bias(shares[a], shares[b], variance[a], variance[b])
        covariance = _covariance(samples, moved, a, b)
        paired = independent + covariance_bias(shares[a], shares[b], covariance)
        found[key] = (independent, paired, jackknife)
    return found


def _covariance(samples: CountSamples, moved: dict[str, Floats], a: str, b: str) -> Floats:
    _, in_a, in_b = np.intersect1d(samples.ids[a], samples.ids[b], return_indices=True)
    if len(in_a) < 2:
        return np.zeros(moved[a].shape[1])
    return share_covariance(moved[a][in_a], moved[b][in_b])
