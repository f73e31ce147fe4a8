"""What the plug-in values are wrong by, on populations whose truth is known."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty import bootstrap
from moetrace.analytics.uncertainty.bootstrap import corrections, left_out
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


def corrected(metric: str, *, same_texts: bool = False, **counts: np.ndarray) -> tuple[float, ...]:
    """The values of one key without their bias, in the order of CORRECTED."""
    texts = len(next(iter(counts.values())))
    ids = {lang: np.arange(texts) + (0 if same_texts else texts * number) for number, lang in enumerate(counts)}
    of_counts = METRICS[metric].of_counts
    assert of_counts is not None
    samples = CountSamples(ids, dict(counts), partial(of_counts, top_k=2))
    units = texts if same_texts else texts * len(counts)
    values, without = (samples.weighted(weights) for weights in (np.ones((1, units), np.uint16), left_out(units)))
    (found,) = corrections(metric, samples, values, without).values()
    return found


def plug_in(*counts: np.ndarray) -> float:
    totals = {str(number): found.sum(axis=0, keepdims=True, dtype=float) for number, found in enumerate(counts)}
    return float(divergence(totals, 2)["0", "1"][0])


@pytest.mark.parametrize("texts", [10, 20, 50])
def test_two_samples_of_one_language_do_not_diverge(texts: int) -> None:
    everything, rng = population(1), np.random.default_rng(texts)
    drawn = [[everything[rng.choice(len(everything), texts)] for _ in range(2)] for _ in range(300)]
    found = np.array([corrected("divergence", a=a, b=b) for a, b in drawn])
    plain = np.array([plug_in(a, b) for a, b in drawn])
    delta, _, jackknife = found.mean(axis=0)
    error = found.std(axis=0) / len(found) ** 0.5
    assert abs(jackknife) < 2.5 * error[2] + 0.1 * plain.mean()
    assert abs(delta) < 2.5 * error[0] + 0.15 * plain.mean()  # for texts as few as 10 the variance is too small
    assert plain.mean() > 20 * error.max()


@pytest.mark.parametrize("texts", [10, 20, 50])
def test_the_entropy_is_that_of_the_population(texts: int) -> None:
    everything, rng = population(2), np.random.default_rng(texts)
    truth = float(entropy(activation_shares(everything.sum(axis=0, dtype=float))))
    drawn = [everything[rng.choice(len(everything), texts)] for _ in range(2000)]
    found = np.array([corrected("routing_entropy", a=a) for a in drawn]) - truth
    plain = np.array([float(entropy(activation_shares(a.sum(axis=0, dtype=float)))) for a in drawn]) - truth
    noise = found.std(axis=0) / len(found) ** 0.5
    assert (abs(found.mean(axis=0)) < 2.5 * noise + 0.15 * abs(plain.mean())).all()
    gained = found - plain[:, None]
    assert (gained.mean(axis=0) > 20 * gained.std(axis=0) / len(found) ** 0.5).all()


def test_translations_covary_and_the_paired_corrections_know_it() -> None:
    rng, texts = np.random.default_rng(3), 20
    everything = population(3)
    other = rng.poisson(0.7 * everything + 0.3 * np.roll(everything, 1, axis=1) + 0.01).astype(np.float32)
    truth = plug_in(everything, other)
    drawn = [rng.choice(len(everything), texts) for _ in range(400)]
    found = [corrected("divergence", same_texts=True, a=everything[ids], b=other[ids]) for ids in drawn]
    independent, paired, jackknife = np.mean(found, axis=0) - truth
    plain = np.mean([plug_in(everything[ids], other[ids]) for ids in drawn]) - truth
    assert independent < 0 < plain  # leaving the covariance out corrects too much
    assert abs(paired) < abs(independent) / 3
    assert abs(jackknife) < abs(independent) / 3


def test_the_frame_has_what_is_corrected(tmp_path: Path) -> None:
    write_world(tmp_path, make_world(1, make_record(languages=["a", "b"]), texts=12))
    opened = connect(tmp_path)
    frame = bootstrap(opened, "divergence", replicates=5)
    assert frame.columns[3:7] == ["jsd", "jsd_corrected", "jsd_corrected_paired", "jsd_jackknife"]
    assert (frame["jsd_corrected"] < frame["jsd"]).all()
    assert (frame["jsd_jackknife"] < frame["jsd"]).all()
    view = metrics.divergence(opened).select("layer", "lang_a", "lang_b", "jsd_corrected").sort(pl.all())
    assert_frame_equal(frame.select(view.columns), view, abs_tol=1e-9, check_dtypes=False)
    frame = bootstrap(opened, "routing_entropy", replicates=5)
    assert (frame["entropy_corrected"] > frame["entropy"]).all()
    assert (frame["entropy_jackknife"] > frame["entropy"]).all()
    view = metrics.routing_entropy(opened).select("layer", "lang", "entropy_corrected").sort(pl.all())
    assert_frame_equal(frame.select(view.columns), view, abs_tol=1e-9, check_dtypes=False)
