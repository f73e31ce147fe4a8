"""How often an interval of a sample covers the value of the population it was drawn from."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from moetrace.analytics.uncertainty.bootstrap import drawn as draw_weights
from moetrace.analytics.uncertainty.bootstrap import left_out
from moetrace.analytics.uncertainty.curves import Curve, replicated
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


def coverage_of_means(
    population: Population, texts: int, samples: int, layers: Sequence[int], replicates: int = 400, seed: int = 0
) -> dict[str, float]:
    """Return the share of 95% intervals of means over language pairs, over samples and layers, that hold the value.

    Of `count_curves`: of each mean in a layer, and of the difference of the first and the last layer.
    """
    rng = np.random.default_rng([seed, texts, 1])
    hits: dict[str, list[bool]] = {}
    truth = _means(population, np.arange(population.size), layers, np.ones((3, population.size), np.uint16))
    for _ in range(samples):
        drawn = rng.integers(0, population.size, texts)
        weights = np.concatenate([np.ones((1, texts), np.uint16), draw_weights(rng, texts, replicates)])
        for name, curve in _means(population, drawn, layers, weights).items():
            difference = curve.at([-1]).minus(curve.at([0]))
            for kind, found, true in (
                (name, curve, truth[name].values),
                (f"{name}, difference of layers", difference, truth[name].values[-1:] - truth[name].values[:1]),
            ):
                low, high = found.interval()
                hits.setdefault(kind, []).extend(((low <= true + 1e-12) & (true - 1e-12 <= high)).tolist())
    return {name: float(np.mean(inside)) for name, inside in hits.items()}


def _means(population: Population, drawn: np.ndarray, layers: Sequence[int], weights: np.ndarray) -> dict[str, Curve]:
    """The curves of means over all pairs of languages of some texts, at some layers."""
    ids = {lang: np.arange(len(drawn)) for lang in population.counts}
    jaccard = np.zeros((len(list(combinations(ids, 2))), len(weights)))
    found = [
        replicated(
            {lang: counts[layer][drawn] for lang, counts in population.counts.items()},
            ids,
            population.top_k,
            weights,
            jaccard,
        )
        for layer in layers
    ]
    curves = {}
    for name in ("isolation", "jsd", "jsd_normalized"):
        values = np.stack([layer[name] for layer in found], axis=1)
        curves[name] = Curve(values[0], values[1:], "wide" if name == "isolation" else "basic")
    return curves


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
