"""Each metric's SQL against the NumPy reference, and the properties that its definition promises."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics import metrics
from analytics.connection import connect
from analytics.query import missing_inputs
from store import MoetraceError
from tests import reference
from tests.stores import World, make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb
    import polars as pl

FLOAT32_PROFILES = ("pivot_similarity",)
VALUES = {
    *("frequency", "share", "weight_mean", "weight_share", "probability", "jaccard", "isolation"),
    *("entropy", "entropy_normalized", "probability_entropy", "probability_entropy_normalized"),
    *("jsd", "jsd_normalized", "probability_jsd", "probability_jsd_normalized"),
    *("divergence", "similarity", "specificity", "score", "cv", "overlap"),
}

WORLDS = {
    "unequal corpora with missing ids and an unused expert": [make_world(1)],
    "one MoE layer": [make_world(2, make_record(moe_layers=[4]), texts=3)],
    "two runs of different models in one store": [
        make_world(3, make_record("b", languages=["x", "y"], moe_layers=[0, 3], num_experts=260, top_k=3)),
        make_world(4, make_record("a", languages=["x", "y", "z"], moe_layers=[0, 3, 9, 10], num_experts=5, top_k=1)),
    ],
    "many languages, every expert used": [
        make_world(5, make_record(languages=[f"l{number}" for number in range(9)]), texts=12, unused_experts=0)
    ],
    "one language": [make_world(6, make_record(languages=["eng_Latn"]))],
}
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    **{name: [{}, {"n": 1}, {"n": 3}, {"n": 999}] for name in reference.METRICS if name.startswith("jaccard")},
    "expert_sets": [{}, {"n": 1}, {"n": 999}],
    "pivot_similarity": [{}, {"pivot_lang": "y"}, {"pivot_lang": "nobody"}],
    "specificity": [{}, {"alpha": 0.5}],
    "overlap": [{}, {"alpha": 0}],
}
CASES = [(name, arguments) for name in reference.METRICS for arguments in ARGUMENTS.get(name, [{}])]


@pytest.fixture(scope="module", params=list(WORLDS))
def worlds(request: pytest.FixtureRequest) -> list[World]:
    return WORLDS[request.param]


@pytest.fixture(scope="module")
def opened(worlds: list[World], tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    return open_worlds(tmp_path_factory.mktemp("store"), worlds)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_sql_agrees_with_the_reference(
    name: str, arguments: dict[str, Any], worlds: list[World], opened: duckdb.DuckDBPyConnection
) -> None:
    agrees_with_reference(opened, worlds, name, arguments)


@pytest.mark.parametrize("name", ["specificity", "overlap"])
def test_languages_restrict_what_is_compared(name: str, tmp_path: Path) -> None:
    worlds = [make_world(1)]
    agrees_with_reference(open_worlds(tmp_path, worlds), worlds, name, {"languages": ["deu_Latn", "swh_Latn"]})


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    layers=st.sets(st.integers(0, 60), min_size=1, max_size=6),
    num_experts=st.integers(2, 40),
    languages=st.integers(1, 5),
    texts_in_shard=st.integers(1, 7),
    data=st.data(),
)
def test_sql_agrees_with_the_reference_on_any_store(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    layers: set[int],
    num_experts: int,
    languages: int,
    texts_in_shard: int,
    data: st.DataObject,
) -> None:
    top_k = data.draw(st.integers(1, num_experts))
    unused = data.draw(st.integers(0, num_experts - top_k))
    names = [f"l{number}" for number in range(languages)]
    record = make_record("run", names, moe_layers=sorted(layers), num_experts=num_experts, top_k=top_k)
    worlds = [make_world(seed, record, unused_experts=unused)]
    opened = open_worlds(tmp_path_factory.mktemp("store"), worlds, texts_in_shard)
    for name in reference.METRICS:
        agrees_with_reference(opened, worlds, name, {})


def test_metrics_do_not_depend_on_how_texts_are_cut_into_shards(tmp_path: Path) -> None:
    world = make_world(7)
    cuts = [open_worlds(tmp_path / str(size), [world], size) for size in (1, 2, 100)]
    for name in reference.METRICS:
        first, *others = (keyed(getattr(metrics, name)(cut).to_dicts()) for cut in cuts)
        for other in others:
            assert close(first, other, 1e-12), name


def test_activation_sums_to_top_k_and_shares_sum_to_one(tmp_path: Path) -> None:
    world = make_world(8)
    summed = metrics.activation(open_worlds(tmp_path, [world])).drop("run", "expert").group_by("lang", "layer").sum()
    assert summed["frequency"].to_list() == pytest.approx([world.record.top_k] * len(summed))
    for column in ("share", "weight_share", "probability"):
        assert summed[column].to_list() == pytest.approx([1.0] * len(summed), abs=1e-6)


def test_every_value_lies_in_its_range(tmp_path: Path) -> None:
    world = make_world(9, make_record(num_experts=6, top_k=1), texts=2, unused_experts=3)
    opened = open_worlds(tmp_path, [world])
    ranges = {
        "jaccard": {"jaccard": 1, "isolation": 1},
        "routing_entropy": {"entropy": math.log(6), "entropy_normalized": 1, "probability_entropy_normalized": 1},
        "divergence": {"jsd": math.log(2), "jsd_normalized": 1, "probability_jsd_normalized": 1},
        "pivot_similarity": {"divergence": 1, "similarity": 1},
        "specificity": {"specificity": len(world.texts)},
        "overlap": {"overlap": 1},
    }
    for name, columns in ranges.items():
        frame = getattr(metrics, name)(opened)
        for column, highest in columns.items():
            assert frame[column].min() >= 0, (name, column)
            assert frame[column].max() <= highest + 1e-12, (name, column)


def test_languages_with_the_same_texts_do_not_diverge(tmp_path: Path) -> None:
    world = make_world(10, alike=[("eng_Latn", "deu_Latn")])
    opened = open_worlds(tmp_path, [world])
    same = (frame_of(opened, name, lang_a="deu_Latn", lang_b="eng_Latn") for name in ("jaccard", "divergence"))
    overlaps, divergences = same
    assert set(overlaps["jaccard"]) == {1.0}
    assert divergences["jsd"].to_list() == pytest.approx([0.0] * len(divergences), abs=1e-15)
    assert divergences["probability_jsd_normalized"].to_list() == pytest.approx([0.0] * len(divergences), abs=1e-14)
    assert set(frame_of(opened, "pivot_similarity", lang="deu_Latn")["similarity"]) == {1.0}


def test_perfectly_even_routing_neither_diverges_nor_divides_by_zero(tmp_path: Path) -> None:
    even = np.full((1, 8), 5)
    record = make_record(languages=["a", "b"], moe_layers=[0], num_experts=8, top_k=2, tables=["usage"])
    row = metrics.divergence(connect(write_counts(tmp_path, record, {"a": even, "b": even}, {"a": 20, "b": 20})))
    assert row["jsd"].item() == pytest.approx(0, abs=1e-15)
    assert row["jsd_normalized"].item() == 0


def test_specificity_to_languages_that_never_use_the_expert_is_finite(tmp_path: Path) -> None:
    counts = {"a": np.array([[10, 0]]), "b": np.array([[0, 10]]), "c": np.array([[0, 10]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, dict.fromkeys(counts, 10)))
    found = metrics.specificity(opened, languages=["b", "c"]).filter(lang="a")
    assert found["specificity"].to_list() == [1 / 1e-8, 0]


def test_renaming_languages_changes_nothing_but_names(tmp_path: Path) -> None:
    world = make_world(11, make_record(languages=["a", "b", "c"]))
    names = {"a": "z", "b": "y", "c": "x"}
    renamed = World(make_record(languages=["z", "y", "x"]), {names[lang]: texts for lang, texts in world.texts.items()})
    for name, column in (("jaccard", "jaccard"), ("divergence", "jsd"), ("divergence", "probability_jsd_normalized")):
        by_pair = []
        for folder, shown in (("before", world), ("after", renamed)):
            back = (
                {new: old for old, new in names.items()} if shown is renamed else dict(zip("abc", "abc", strict=True))
            )
            frame = getattr(metrics, name)(open_worlds(tmp_path / name / column / folder, [shown]))
            by_pair.append(
                {
                    (row["layer"], *sorted((back[row["lang_a"]], back[row["lang_b"]]))): row[column]
                    for row in frame.to_dicts()
                }
            )
        assert by_pair[0].keys() == by_pair[1].keys()
        assert by_pair[0] == pytest.approx(by_pair[1], abs=1e-14)


def test_a_run_without_profiles_has_null_probabilities_and_no_similarity(tmp_path: Path) -> None:
    record = make_record(tables=["sequences", "tokens", "routes", "usage"])
    opened = open_worlds(tmp_path, [make_world(12, record)])
    for name, columns in {
        "activation": ["probability"],
        "routing_entropy": ["probability_entropy", "probability_entropy_normalized"],
        "divergence": ["probability_jsd", "probability_jsd_normalized"],
    }.items():
        frame = getattr(metrics, name)(opened)
        assert len(frame) > 0
        for column in columns:
            assert frame[column].null_count() == len(frame), (name, column)
        assert frame.drop(columns).null_count().sum_horizontal().item() == frame_nulls_expected(name, frame)
    with pytest.raises(MoetraceError, match=r"pivot_similarity has nothing of run 'run', .* without profiles$"):
        metrics.pivot_similarity(opened)
    assert missing_inputs(opened, "select * from activation") == []


def test_a_set_of_no_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(metrics.MoetraceError, match="n = 0: a set of experts has at least 1 member"):
        metrics.jaccard(open_worlds(tmp_path, [make_world(13)]), n=0)


def open_worlds(path: Path, worlds: Sequence[World], texts_in_shard: int = 3) -> duckdb.DuckDBPyConnection:
    for world in worlds:
        store = write_world(path, world, texts_in_shard)
    return connect(store)


def frame_of(opened: duckdb.DuckDBPyConnection, name: str, **equal: str) -> pl.DataFrame:
    return getattr(metrics, name)(opened).filter(**equal)


def frame_nulls_expected(name: str, frame: pl.DataFrame) -> int:
    # An expert that is never used has no mean weight; nothing else is unknown.
    return frame.filter(frequency=0).height if name == "activation" else 0


def agrees_with_reference(
    opened: duckdb.DuckDBPyConnection, worlds: Sequence[World], name: str, arguments: dict[str, Any]
) -> None:
    expected = [
        {"run": world.record.run, **row}
        for world in worlds
        for row in reference.METRICS[name](reference.routing(world), **arguments)
    ]
    found = getattr(metrics, name)(opened, **arguments).to_dicts()
    tolerance = 1e-6 if name in FLOAT32_PROFILES else 1e-9
    assert close(keyed(expected), keyed(found), tolerance)


def keyed(rows: list[dict[str, Any]]) -> dict[tuple[tuple[str, Any], ...], dict[str, float | None]]:
    """Split each row into what identifies it and its values; columns are in any order."""
    made = {
        tuple(sorted((key, value) for key, value in row.items() if key not in VALUES)): {
            key: value for key, value in row.items() if key in VALUES
        }
        for row in rows
    }
    assert len(made) == len(rows)
    return made


def close(expected: dict[Any, dict[str, Any]], found: dict[Any, dict[str, Any]], tolerance: float) -> bool:
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert values.keys() == found[key].keys()
        for column, value in values.items():
            other = found[key][column]
            missing = value is None or other is None
            near = value is other if missing else math.isclose(value, other, rel_tol=tolerance, abs_tol=tolerance)
            assert near, (key, column, value, other)
    return True
