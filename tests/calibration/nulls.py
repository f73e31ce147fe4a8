"""Whether p-values are uniform where the null hypothesis is true, and small where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from moetrace.analytics.uncertainty.exchanged import tested_of_counts, tested_of_translations
from moetrace.analytics.uncertainty.mispairing import Mispairing
from moetrace.analytics.uncertainty.permutation import Exchange, p_value, standardised
from moetrace.analytics.uncertainty.statistics import METRICS

if TYPE_CHECKING:
    from moetrace.analytics.uncertainty.permutation import Ties
    from tests.calibration.population import Population

PERMUTATIONS = 199


def p_values_under_the_null(
    population: Population,
    metric: str,
    texts: int,
    draws: int,
    pair: tuple[str, str],
    *,
    paired: bool = True,
    ties: Ties = "random",
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return p of one layer, and p over all layers, of `draws` samples in which the null hypothesis is true.

    Each text id of a sample keeps its labels of the pair or changes them, by a coin; for similarity, the pivot's texts
    are dealt out at random within blocks. Not `paired`: the two languages' texts are different ones of one language.
    The population's other languages are in the call as they are.
    """
    rng = np.random.default_rng([seed, texts, draws])
    found: dict[str, list[float]] = {"p_value": [], "p_layers": []}
    for _ in range(draws):
        if METRICS[metric].of_counts is None:
            tested = _mispaired(population, metric, texts, pair[0], rng)
        else:
            counts = {lang: of_lang[:, _drawn(population, texts, rng)] for lang, of_lang in population.counts.items()}
            ids = _drawn(population, texts, rng)
            own, other = (population.counts[lang][:, ids] for lang in pair)
            if paired:
                changes = rng.integers(0, 2, texts).astype(bool)[None, :, None]
                counts[pair[0]], counts[pair[1]] = np.where(changes, other, own), np.where(changes, own, other)
            else:  # a text in both samples would never be twice in one, as it may be when they are dealt out again
                ids = _drawn(population, 2 * texts, rng)
                for lang, drawn in zip(pair, (ids[:texts], ids[texts:]), strict=True):
                    counts[lang] = population.counts[pair[0]][:, drawn]
            tested = _tested(population, metric, counts, pair, paired=paired, rng=rng)
        _add(found, metric, tested, ties, rng)
    return found


def power(
    population: Population, metric: str, texts: int, draws: int, pair: tuple[str, str], share: float = 1, seed: int = 0
) -> float:
    """Return how often p is at most .05, at the first layer, where languages differ in a `share` of the texts."""
    rng = np.random.default_rng([seed, texts, draws, 1])
    found: dict[str, list[float]] = {"p_value": [], "p_layers": []}
    for _ in range(draws):
        ids = _drawn(population, texts, rng)
        counts = {lang: of_lang[:, ids] for lang, of_lang in population.counts.items()}
        own, other = counts[pair[0]], counts[pair[1]]
        same = (rng.random(texts) >= share)[None, :, None] & (rng.random(texts) < 0.5)[None, :, None]
        counts[pair[0]], counts[pair[1]] = np.where(same, other, own), np.where(same, own, other)
        tested = _tested(population, metric, counts, pair, paired=True, rng=rng)
        _add(found, metric, tested, "half", rng)
    return float(np.mean(np.array(found["p_value"]) <= 0.05))


def uniform(p_values: list[float]) -> float:
    """Return the p-value of Kolmogorov and Smirnov's test against the uniform distribution."""
    return float(stats.kstest(p_values, "uniform").pvalue)


def _add(
    found: dict[str, list[float]], metric: str, tested: list[np.ndarray], ties: Ties, rng: np.random.Generator
) -> None:
    alternative = METRICS[metric].alternative
    found["p_value"].append(p_value(tested[0], alternative, ties, rng))
    extreme = [standardised(values, alternative) for values in tested]
    # The most extreme layer's own corrected p: the least of them, which is uniform where the test is exact.
    most = np.fmax.reduce(extreme)
    found["p_layers"].append(p_value(most, "greater", ties, rng))


def _tested(
    population: Population,
    metric: str,
    counts: dict[str, np.ndarray],
    pair: tuple[str, str],
    *,
    paired: bool,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    own, other = (counts[lang].shape[1] for lang in pair)
    if paired:
        exchange = Exchange.of_pairs(np.arange(own), np.arange(own), rng, PERMUTATIONS)
    else:
        exchange = Exchange.of_texts(own, other, rng, PERMUTATIONS)
    used = np.flatnonzero(sum(found.sum(axis=(0, 1)) for found in counts.values()))
    expert = int(rng.choice(used))
    tested = []
    for layer in range(population.layers):
        of_layer = {lang: found[layer] for lang, found in counts.items()}
        by_key = tested_of_counts(METRICS[metric], pair, of_layer, exchange, {"top_k": population.top_k})
        keys = [key for key in by_key if metric != "specificity" or key[1] == expert]
        tested.append(by_key[keys[0]][1])
    return tested


def _mispaired(
    population: Population, metric: str, texts: int, lang: str, rng: np.random.Generator
) -> list[np.ndarray]:
    drawn = _drawn(population, texts, rng)
    pairing = population.mispairing(drawn)
    (shifts,) = next(iter(pairing.within_blocks(rng, 1)))
    place = np.arange(texts)
    partner = pairing.starts + (place - pairing.starts + shifts) % pairing.sizes
    state = rng.integers(1 << 32)
    tested = []
    for layer in range(population.layers):
        q = population.profiles[lang][layer][drawn][pairing.rows]
        pivot = population.profiles[population.pivot][layer][drawn][pairing.rows][partner]
        ordered = Mispairing(place, place, pairing.starts, pairing.sizes)
        tested.append(tested_of_translations(metric, ordered, q, pivot, np.random.default_rng(state), PERMUTATIONS))
    return tested


def _drawn(population: Population, texts: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(population.size, texts, replace=False)
