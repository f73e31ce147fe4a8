"""What the plug-in values are wrong by, on populations whose truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty import bootstrap
from moetrace.analytics.uncertainty.bootstrap import corrections
from moetrace.analytics.uncertainty.samples import CountSamples
from moetrace.analytics.uncertainty.statistics import METRICS, activation_shares, divergence, entropy
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

EXPERTS = 16


def population(seed: int, texts: int = 4000) -> np.ndarray:
    """Counts of texts that differ in length and taste, [texts, experts]."""
    rng = np.random.default_rng(seed)
    taste = rng.dirichlet(np.full(EXPERTS, 0.7))
    tastes = rng.dirichlet(300 * taste + 1e-3, texts)
    return np.stack([rng.multinomial(20 * rng.integers(1, 8), own) for own in tastes]).astype(np.float32)


def samples(metric: str, **counts: np.ndarray) -> CountSamples:
    ids = {lang: np.arange(len(found)) for lang, found in counts.items()}
    return CountSamples(ids, dict(counts), lambda totals: METRICS[metric].of_counts(totals, top_k=2))


def plug_in(*counts: np.ndarray) -> float:
    totals = {str(number): found.sum(axis=0, keepdims=True, dtype=float) for number, found in enumerate(counts)}
    return float(divergence(totals, 2)["0", "1"][0])


@pytest.mark.parametrize("texts", [10, 20, 50])
def test_two_samples_of_one_language_do_not_diverge(texts: int) -> None:
    everything, rng, found, plain = population(1), np.random.default_rng(texts), [], []
    for _ in range(300):
        a, b = (everything[rng.choice(len(everything), texts)] for _ in range(2))
        corrected, _ = corrections("divergence", samples("divergence", a=a, b=b))["a", "b"]
        found.append(corrected)
        plain.append(plug_in(a, b))
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found)) < 2 * error + 0.15 * np.mean(plain)  # of texts as few as 10 the variance is too small
    assert np.mean(plain) > 20 * error


@pytest.mark.parametrize("texts", [10, 20, 50])
def test_the_entropy_is_that_of_the_population(texts: int) -> None:
    everything, rng = population(2), np.random.default_rng(texts)
    truth = float(entropy(activation_shares(everything.sum(axis=0, dtype=float))))
    drawn = [everything[rng.choice(len(everything), texts)] for _ in range(2000)]
    found = [corrections("routing_entropy", samples("routing_entropy", a=a))["a",][0] - truth for a in drawn]
    plain = [float(entropy(activation_shares(a.sum(axis=0, dtype=float)))) - truth for a in drawn]
    error = np.std(np.subtract(found, plain)) / len(found) ** 0.5
    noise = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found)) < 2 * noise + 0.15 * abs(np.mean(plain))
    assert np.mean(found) - np.mean(plain) > 20 * error


def test_translations_covary_and_the_paired_correction_knows_it() -> None:
    rng, texts = np.random.default_rng(3), 20
    everything = population(3)
    other = rng.poisson(0.7 * everything + 0.3 * np.roll(everything, 1, axis=1) + 0.01).astype(np.float32)
    truth = plug_in(everything, other)
    errors = {"plain": [], "independent": [], "paired": []}
    for _ in range(400):
        drawn = rng.choice(len(everything), texts)
        independent, paired = corrections("divergence", samples("divergence", a=everything[drawn], b=other[drawn]))[
            "a", "b"
        ]
        for name, value in (("plain", plug_in(everything[drawn], other[drawn])), ("independent", independent)):
            errors[name].append(value - truth)
        errors["paired"].append(paired - truth)
    means = {name: float(np.mean(found)) for name, found in errors.items()}
    assert means["independent"] < 0 < means["plain"]  # leaving the covariance out corrects too much
    assert abs(means["paired"]) < abs(means["independent"]) / 3


def test_the_frame_has_what_is_corrected(tmp_path: Path) -> None:
    write_world(tmp_path, make_world(1, make_record(languages=["a", "b"]), texts=12))
    opened = connect(tmp_path)
    frame = bootstrap(opened, "divergence", replicates=5)
    assert frame.columns[3:6] == ["jsd", "jsd_corrected", "jsd_corrected_paired"]
    assert (frame["jsd_corrected"] < frame["jsd"]).all()
    frame = bootstrap(opened, "routing_entropy", replicates=5)
    assert (frame["entropy_corrected"] > frame["entropy"]).all()
