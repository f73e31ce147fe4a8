"""How often an interval of a sample covers the value of the population it was drawn from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from moetrace.analytics.uncertainty.bootstrap import drawn as draw_weights
from moetrace.analytics.uncertainty.bootstrap import left_out
from moetrace.analytics.uncertainty.intervals import interval_of
from moetrace.analytics.uncertainty.samples import CountSamples, TranslationSamples, parts_of_translations
from moetrace.analytics.uncertainty.statistics import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.uncertainty.samples import Samples
    from tests.calibration.population import Population

INTERVALS = ("basic", "bca", "percentile")
KEYS = 12  # of a metric with more, such as specificity: as many, drawn anew for each sample


def coverage(
    population: Population,
    metric: str,
    texts: int,
    samples: int,
    layers: Sequence[int],
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Return the share of 95% intervals, over samples, layers and keys, that hold the population's value.

    Values that no sample can vary in (an expert that nobody uses) are left out.
    """
    rng = np.random.default_rng([seed, texts])
    everything = np.arange(population.size)
    once = np.ones((1, population.size), np.uint16)
    truth = {layer: _samples(population, metric, everything, layer).weighted(once) for layer in layers}
    hits: dict[str, list[bool]] = {interval: [] for interval in INTERVALS}
    single, jackknife = np.ones((1, texts), np.uint16), left_out(texts)
    for _ in range(samples):
        drawn = rng.integers(0, population.size, texts)
        weights = draw_weights(rng, texts, replicates)
        for layer in layers:
            found = _samples(population, metric, drawn, layer)
            value, replicated, without = (found.weighted(times) for times in (single, weights, jackknife))
            keys = [key for key in value if truth[layer][key][0] > 0]
            for number in rng.permutation(len(keys))[:KEYS]:
                key = keys[number]
                for interval, inside in hits.items():
                    lower, upper = interval_of(interval, value[key][0], replicated[key], 0.95, without[key])
                    inside.append(bool(lower - 1e-12 <= truth[layer][key][0] <= upper + 1e-12))
    return {interval: float(np.mean(inside)) for interval, inside in hits.items()}


def _samples(population: Population, metric: str, drawn: np.ndarray, layer: int) -> Samples:
    of_counts = METRICS[metric].of_counts
    if of_counts is not None:
        counts = {lang: found[layer][drawn] for lang, found in population.counts.items()}
        ids = {lang: np.arange(len(drawn)) for lang in counts}
        return CountSamples(ids, counts, partial(of_counts, top_k=population.top_k))
    pairing = population.mispairing(drawn)
    pivot = population.profiles[population.pivot][layer][drawn][pairing.rows]
    values = {}
    for lang, found in population.profiles.items():
        if lang != population.pivot:
            values[lang] = parts_of_translations(metric, pairing, found[layer][drawn][pairing.rows], pivot)
    return TranslationSamples(dict.fromkeys(values, pairing.rows), values)
