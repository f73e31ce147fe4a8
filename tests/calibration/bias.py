"""How far plug-in values of samples are from those of the population, with and without their correction."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from moetrace.analytics.uncertainty.bias import entropy_bias, residuals, share_variance
from moetrace.analytics.uncertainty.bootstrap import corrections, left_out
from moetrace.analytics.uncertainty.samples import CountSamples
from moetrace.analytics.uncertainty.statistics import METRICS, activation_shares

if TYPE_CHECKING:
    from tests.calibration.population import Population

Estimates = dict[str, np.ndarray]  # plug-in, independent, paired, jackknife, noise: the mean over layers of each sample


def halves(population: Population, lang: str, texts: int, samples: int, seed: int = 0) -> Estimates:
    """Return the divergence of two disjoint samples of one language."""
    rng = np.random.default_rng([seed, texts])
    drawn = [rng.choice(population.size, 2 * texts, replace=False) for _ in range(samples)]
    counts = population.counts[lang]
    found = [
        _estimates(population, counts[:, both[:texts]], counts[:, both[texts:]], same_texts=False) for both in drawn
    ]
    return _columns(found)


def pairs(population: Population, pair: tuple[str, str], texts: int, samples: int, seed: int = 0) -> Estimates:
    """Return the divergence of samples of two languages: of the same texts, as translations are."""
    rng = np.random.default_rng([seed, texts])
    drawn = [rng.integers(0, population.size, texts) for _ in range(samples)]
    a, b = (population.counts[lang] for lang in pair)
    return _columns([_estimates(population, a[:, ids], b[:, ids], same_texts=True) for ids in drawn])


def truth(population: Population, pair: tuple[str, str]) -> float:
    """Return the divergence of two languages in the whole population, the mean over layers."""
    a, b = (population.counts[lang] for lang in pair)
    return _estimates(population, a, b, same_texts=True)["plug-in"]


def _estimates(population: Population, a: np.ndarray, b: np.ndarray, *, same_texts: bool) -> dict[str, float]:
    rows = []
    of_counts = METRICS["divergence"].of_counts
    assert of_counts is not None
    for layer in range(population.layers):
        counts = {"a": a[layer], "b": b[layer]}
        ids = {"a": np.arange(a.shape[1]), "b": np.arange(b.shape[1]) + (0 if same_texts else a.shape[1])}
        samples = CountSamples(ids, counts, partial(of_counts, top_k=population.top_k))
        texts = a.shape[1] if same_texts else 2 * a.shape[1]
        without = samples.weighted(left_out(texts))
        values = samples.weighted(np.ones((1, texts), np.uint16))
        independent, paired, jackknife = corrections("divergence", samples, values, without)["a", "b"]
        noise = np.mean([_noise(found.astype(float)) for found in counts.values()])
        rows.append((values["a", "b"][0], independent, paired, jackknife, noise))
    return dict(
        zip(("plug-in", "independent", "paired", "jackknife", "noise"), np.mean(rows, axis=0).tolist(), strict=True)
    )


def _noise(counts: np.ndarray) -> float:
    """The view's `noise` of one language: sum_e V(p_e) / (4 p_e)."""
    return entropy_bias(activation_shares(counts.sum(axis=0)), share_variance(residuals(counts))) / 2


def _columns(found: list[dict[str, float]]) -> Estimates:
    return {name: np.array([row[name] for row in found]) for name in found[0]}
