"""A small `make calibrate`: intervals, p-values and corrections on UI strings through the bundled model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty.statistics import METRICS
from moetrace.store.write.writer import StoreWriter
from tests.calibration import bias, nulls
from tests.calibration.coverage import coverage
from tests.calibration.population import Population
from tests.support.stores import make_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.plan.plan import Plan

pytestmark = pytest.mark.engine

LANGUAGES = ("eng_Latn", "ces_Latn", "slk_Latn")
NEAR = ("ces_Latn", "slk_Latn")
SHARDS = 3  # of each language, of 4,096 tokens


@pytest.fixture(scope="module")
def population(
    engine: TracedEngine, plan_of: Callable[..., Plan], shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Population:
    plan = plan_of(shared_data / "ui-strings", languages=LANGUAGES)
    facts = engine.facts
    record = make_record("ui", LANGUAGES, engine.moe_layers, facts.num_experts, facts.top_k)
    path = tmp_path_factory.mktemp("ui")
    with StoreWriter(path, record) as writer:
        for shard in engine.trace([shard for shard in plan.shards if shard.number < SHARDS]):
            writer.write(shard)
    found = Population.read(connect(path))
    assert found.size > 400
    return found


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in {"jaccard", "specificity"}])
def test_default_intervals_cover(metric: str, population: Population) -> None:
    found = coverage(population, metric, 200, samples=150, layers=(0, 4), replicates=400)
    assert 0.87 <= found["basic"] <= 0.98  # 0.90 to 0.96, and what 150 samples may miss it by


def test_percentiles_of_a_divergence_do_not_cover(population: Population) -> None:
    assert coverage(population, "divergence", 20, samples=60, layers=(0,), replicates=400)["percentile"] < 0.85


@pytest.mark.parametrize("metric", METRICS)
def test_p_is_uniform_where_the_null_is_true(metric: str, population: Population) -> None:
    found = nulls.p_values_under_the_null(population, metric, 50, 200, NEAR)
    assert nulls.uniform(found["p_value"]) > 0.001
    assert nulls.uniform(found["p_layers"]) > 0.001


def test_p_is_small_where_it_is_not(population: Population) -> None:
    assert nulls.power(population, "divergence", 20, 40, ("ces_Latn", "eng_Latn")) > 0.95
    assert nulls.power(population, "divergence", 20, 100, NEAR, share=0) < 0.15


@pytest.mark.parametrize("texts", [10, 20, 50])
def test_halves_of_a_language_do_not_diverge(texts: int, population: Population) -> None:
    found = bias.halves(population, "eng_Latn", texts, samples=100)
    error = {name: np.std(values) / len(values) ** 0.5 for name, values in found.items()}
    assert abs(found["jackknife"].mean()) < 3 * error["jackknife"]
    assert abs(found["independent"].mean()) < found["plug-in"].mean() / 2
    assert found["noise"].mean() == pytest.approx(found["plug-in"].mean(), rel=0.35)
