"""Each metric's SQL against the NumPy reference on traces that nobody here made up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.store.errors import MoetraceError
from moetrace.store.format.weights import round_weights
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.reference import metrics as reference
from tests.reference.agreement import FLOAT32_PROFILES, close, keyed
from tests.support.published import import_files
from tests.support.stored import stored_world
from tests.support.stores import make_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.plan.plan import Plan

LANGUAGES = ("bn", "en", "sw")
OF_PROFILES = ("probability", "pivot_similarity", "score_correlation")


@pytest.fixture(scope="module")
def udhr(
    engine: TracedEngine, plan_of: Callable[..., Plan], shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """Trace some languages of the Declaration through the bundled model."""
    plan = plan_of(shared_data / "udhr", languages=("deu_Latn", "eng_Latn", "spa_Latn", "swh_Latn"))
    facts = engine.facts
    record = make_record("udhr", plan.languages, engine.moe_layers, facts.num_experts, facts.top_k)
    path = tmp_path_factory.mktemp("udhr")
    with StoreWriter(path, record) as writer:
        for shard in engine.trace(plan.shards):
            writer.write(shard)
    return Store(path)


@pytest.fixture(scope="module")
def esft(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("esft")
    tasks = (f"{task}={shared_data}/esft-trace/{task}.tar.xz" for task in ("intent", "summary"))
    import_files("esft", path, *tasks, run="esft")
    return Store(path)


def agree(store: Store, run: str, names: list[str], data: reference.Routing) -> None:
    """Fail where SQL and reference differ; what is made of profiles is left out of a run that has none."""
    opened = connect(store)
    profiled = "profiles" in store.run(run).tables
    for name in names:
        expected, found = reference.METRICS[name](data), getattr(metrics, name)(opened).to_dicts()
        if not profiled:
            without_profiles(expected)
            assert without_profiles(found) <= {None}
        expected = [{"run": run, **row} for row in expected]
        assert found, name
        assert close(keyed(expected), keyed(found), 1e-6 if name in FLOAT32_PROFILES else 1e-9), name


def without_profiles(rows: list[dict[str, Any]]) -> set[Any]:
    """Take what is made of profiles out of rows; return its values."""
    return {row.pop(column) for row in rows for column in [*row] if column.startswith(OF_PROFILES)}


@pytest.mark.engine
def test_on_a_trace_of_the_declaration(udhr: Store) -> None:
    agree(udhr, "udhr", list(reference.METRICS), reference.routing(stored_world(udhr, "udhr")))


def test_on_published_traces_of_deepseek_v2_lite(esft: Store) -> None:
    data = reference.routing(stored_world(esft, "esft"))
    # ESFT did not publish token ids.
    of_token_ids = {"vocabulary_overlap", "divergence_vs_vocabulary", "divergence_vocabulary_controlled"}
    lacking = of_token_ids | {name for name in reference.METRICS if "profiles" in _needs(name)}
    agree(esft, "esft", [name for name in reference.METRICS if name not in lacking], data)
    assert all(getattr(metrics, name)(connect(esft)).is_empty() for name in of_token_ids)
    with pytest.raises(MoetraceError, match="run 'esft', which was traced without profiles"):
        metrics.pivot_similarity(connect(esft))


def test_on_published_counts_of_qwen3_30b_a3b(shared_data: Path, tmp_path: Path) -> None:
    sources = {lang: shared_data / "qwen3-30b-a3b-mgsm" / f"mgsm_{lang}.json" for lang in LANGUAGES}
    import_files("usage-json", tmp_path, *(f"{lang}={path}" for lang, path in sources.items()), run="mgsm")
    published = {lang: json.loads(path.read_text()) for lang, path in sources.items()}

    def grid(lang: str, field: str) -> np.ndarray:
        return np.array(
            [[published[lang][str(layer)].get(str(e), {}).get(field, 0) for e in range(128)] for layer in range(48)],
            dtype=float,
        )

    nothing = {lang: np.zeros((48, 128)) for lang in LANGUAGES}
    data = reference.Routing(
        run="mgsm",
        layers=list(range(48)),
        top_k=8,
        pivot="en",
        tokens={lang: published[lang]["0"]["total_tokens"] for lang in LANGUAGES},
        count={lang: grid(lang, "activation_tokens") for lang in LANGUAGES},
        weight_sum={lang: grid(lang, "gate_values_sum") for lang in LANGUAGES},
        probability=nothing,
        profiles={},
        texts={},
        indexes=range(48),
    )
    names = [name for name in reference.METRICS if _needs(name) <= {"usage", "run records", "commit records"}]
    assert len(names) >= 12
    agree(Store(tmp_path), "mgsm", names, data)


@pytest.mark.engine
def test_a_store_read_back_is_what_was_captured(
    engine: TracedEngine, udhr: Store, plan_of: Callable[..., Plan], shared_data: Path
) -> None:
    (shard,) = engine.trace(plan_of(shared_data / "udhr", languages=("swh_Latn",)).shards)
    found = stored_world(udhr, "udhr").texts["swh_Latn"]
    assert [text.text_id for text in found] == list(shard.text_ids)
    for index in (0, 20):
        rows = shard.sequence_of_token() == index
        order = np.argsort(-round_weights(shard.weights[..., rows], "f32"), axis=1, kind="stable")
        experts = np.take_along_axis(shard.experts[..., rows], order, axis=1)
        assert np.array_equal(experts.transpose(2, 0, 1), found[index].experts)


def _needs(name: str) -> set[str]:
    return set(views()[name].needs.split(", "))
