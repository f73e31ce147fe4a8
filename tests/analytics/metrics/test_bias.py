"""Corrections of bias on texts that are drawn from populations whose routing is known, layer after layer anew."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.special import entr

from moetrace.analytics import metrics
from tests.reference.metrics.distributions import jsd
from tests.support.stores import Text, World, make_record
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

LAYERS, EXPERTS, SPREAD = 400, 8, 60.0
SIZES = (10, 20, 50)


@cache
def populations() -> tuple[np.ndarray, np.ndarray]:
    """Return two populations' shares of experts, one of each a layer, [LAYERS, EXPERTS]."""
    rng = np.random.default_rng(5)
    drawn = rng.dirichlet(np.full(EXPERTS, 3.0), (2, LAYERS))
    return 0.9 * drawn[0] + 0.1 / EXPERTS, 0.4 * drawn[0] + 0.5 * drawn[1] + 0.1 / EXPERTS


def sampled(texts: int) -> World:
    """Draw texts of three languages: `a` and `b` of one population, `c` of the other.

    A text has a taste of its own in each layer, Dirichlet around its population: its tokens are not independent.
    """
    rng = np.random.default_rng(texts)
    tables = ("sequences", "tokens", "routes", "usage")
    record = make_record(languages="abc", moe_layers=range(LAYERS), num_experts=EXPERTS, top_k=1, tables=tables)
    made: dict[str, list[Text]] = {}
    for lang, population in zip("abc", (*populations()[:1] * 2, populations()[1]), strict=True):
        made[lang] = []
        for number in range(texts):
            length = int(rng.integers(100, 300))
            taste = rng.standard_gamma(SPREAD * population)
            edges = np.cumsum(taste / taste.sum(axis=1, keepdims=True), axis=1)[:, :-1]
            experts = (rng.random((length, LAYERS, 1)) > edges).sum(axis=2, dtype=np.uint8)
            ones, nothing = np.ones((length, LAYERS, 1), np.float32), np.zeros((LAYERS, EXPERTS), np.float32)
            made[lang].append(Text(f"{lang}-{number}", np.zeros(length, np.int32), experts[..., None], ones, nothing))
    return World(record, made)


@pytest.fixture(scope="module", params=SIZES)
def frames(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, ...]:
    """Return divergence and entropy of as many texts."""
    opened = open_worlds(tmp_path_factory.mktemp("store"), [sampled(request.param)], texts_in_shard=25)
    return metrics.divergence(opened), metrics.routing_entropy(opened)


def errors(values: np.ndarray) -> float:
    """Return how many standard errors the mean over layers, each drawn for itself, lies above 0."""
    return float(values.mean() / (values.std(ddof=1) / np.sqrt(len(values))))


def test_two_samples_of_one_population_do_not_diverge_once_corrected(frames: tuple[pl.DataFrame, ...]) -> None:
    same = frames[0].filter(lang_a="a", lang_b="b")
    assert len(same) == LAYERS
    assert abs(errors(same["jsd_corrected"].to_numpy())) < 2
    assert errors(same["jsd"].to_numpy()) > 20
    assert same["jsd_corrected"].min() < 0


def test_the_noise_is_what_two_samples_of_one_population_show(frames: tuple[pl.DataFrame, ...]) -> None:
    same = frames[0].filter(lang_a="a", lang_b="b")
    assert abs(errors((same["jsd"] - same["noise"]).to_numpy())) < 2


def test_the_divergence_of_two_populations_is_theirs_once_corrected(frames: tuple[pl.DataFrame, ...]) -> None:
    p, q = populations()
    truth = np.array([jsd(*pair) for pair in zip(p, q, strict=True)])
    apart = frames[0].filter(lang_a="a", lang_b="c").sort("layer")
    assert abs(errors(apart["jsd_corrected"].to_numpy() - truth)) < 2
    assert errors(apart["jsd"].to_numpy() - truth) > 4


def test_the_entropy_is_the_population_s_once_corrected(frames: tuple[pl.DataFrame, ...]) -> None:
    truth = entr(populations()[0]).sum(axis=1)
    found = frames[1].filter(lang="b").sort("layer")
    assert abs(errors(found["entropy_corrected"].to_numpy() - truth)) < 2
    assert errors(found["entropy"].to_numpy() - truth) < -3


def test_one_text_alone_has_no_variance(tmp_path: Path) -> None:
    world = sampled(2)
    alone = World(world.record, {**world.texts, "b": world.texts["b"][:1]})
    opened = open_worlds(tmp_path, [alone])
    pairs = metrics.divergence(opened, layers=[0]).select("lang_a", "lang_b", "jsd_corrected", "noise")
    known = [(a, b) for a, b, corrected, noise in pairs.rows() if corrected is not None and noise is not None]
    assert known == [("a", "c")]
    assert metrics.routing_entropy(opened, layers=[0])["entropy_corrected"].is_null().to_list() == [False, True, False]
    (row,) = metrics.divergence_by_layer(opened, layers=[0]).to_dicts()
    assert (row["jsd_corrected"], row["noise"]) == (None, None)
    assert row["jsd"] > 0
