"""Two runs compared: stages of one model, and texts of a task and general ones; against the references."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.store.errors import UnknownNameError
from tests.reference import metrics as reference
from tests.reference.agreement import close, keyed
from tests.support.stores import World, make_record, make_world, write_counts, write_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb

    from tests.support.stores import Text

BASE = make_world(1, make_record("base", languages=["a", "b", "c"]))
TUNED = make_world(2, make_record("tuned", languages=["a", "b", "c", "d"]))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"run_a": "task"},
        {"run_a": "task", "run_b": "general", "tau": 0.1},
        {"lang": "deu_Latn"},
        {"layers": [2]},
        {"run_b": "other", "layers": [4, 5]},
    ],
    ids=str,
)
def test_task_experts_agree_with_the_reference(arguments: dict[str, Any], tmp_path: Path) -> None:
    worlds = [
        make_world(21, make_record("task")),
        make_world(22, make_record("general"), texts=9),
        make_world(23, make_record("other", moe_layers=[2, 4, 5])),
        make_world(24, make_record("another-model", num_experts=9)),
    ]
    opened = open_worlds(tmp_path, worlds)
    runs = [reference.routing(world) for world in worlds]
    sides = {side: arguments[side] for side in ("run_a", "run_b") if side in arguments}
    expected = reference.task_experts(runs, **{key: arguments[key] for key in arguments if key not in sides})
    expected = [row for row in expected if all(row[side] == run for side, run in sides.items())]
    assert close(keyed(expected), keyed(metrics.task_experts(opened, **arguments).to_dicts()), 1e-12)


def test_task_experts_of_two_runs_the_other_way_round_are_the_opposite(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(25, make_record(run)) for run in ("a", "b")])
    there, back = metrics.task_experts(opened, "a", "b"), metrics.task_experts(opened, "b", "a")
    assert there["score"].to_list() == pytest.approx((-back["score"]).to_list())
    assert there["score"].sum() == pytest.approx(0)


def test_task_experts_of_an_unknown_run_are_an_error_that_suggests(three_languages: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(UnknownNameError, match="the store has no run 'rum'; did you mean run"):
        metrics.task_experts(three_languages, "rum")


def test_task_experts_of_runs_without_texts_are_null(tmp_path: Path) -> None:
    for run in ("a", "b"):
        record = make_record(run, ["x"], moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
        store = write_counts(tmp_path, record, {"x": np.array([[4, 6]])}, {"x": 10})
    found = metrics.task_experts(connect(store), "a", "b")
    assert found.select("score", "selected").rows() == [(None, None)] * 2


def mean(rows: list[dict[str, Any]], layer: int, column: str) -> float:
    return float(np.mean([row[column] for row in rows if row["layer"] == layer]))


@pytest.mark.parametrize("shared", [["a", "b", "c"], ["b"]])
def test_each_side_is_what_it_is_over_the_languages_both_have(shared: list[str], tmp_path: Path) -> None:
    base = World(BASE.record, {lang: texts for lang, texts in BASE.texts.items() if lang in shared})
    for world in (base, TUNED):
        write_world(tmp_path, world)
    rows = metrics.stage_comparison(connect(tmp_path), "base", "tuned").to_dicts()
    assert [row["layer"] for row in rows] == BASE.record.moe_layers
    for side, world in (("a", BASE), ("b", TUNED)):
        data = reference.routing(World(world.record, {lang: world.texts[lang] for lang in shared}))
        entropies, divergences = reference.routing_entropy(data), reference.divergence(data)
        specialized = {row["layer"]: row["specialization"] for row in reference.language_specialization(data)}
        for row in rows:
            layer = row["layer"]
            assert row["languages"] == len(shared)
            assert row[f"entropy_{side}"] == pytest.approx(mean(entropies, layer, "entropy_normalized"), abs=1e-9)
            if len(shared) == 1:
                assert row[f"divergence_{side}"] is row[f"specialization_{side}"] is None
                continue
            assert row[f"divergence_{side}"] == pytest.approx(mean(divergences, layer, "jsd_normalized"), abs=1e-9)
            assert row[f"specialization_{side}"] == pytest.approx(specialized[layer], abs=1e-9)


def test_the_view_has_every_pair_of_runs_once(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        write_world(tmp_path, replace(BASE, record=make_record(name, languages=["a", "b", "c"])))
    opened = connect(tmp_path)
    assert opened.sql("select distinct run_a, run_b from stage_comparison order by all").fetchall() == [
        ("x", "y"),
        ("x", "z"),
        ("y", "z"),
    ]
    frame = metrics.stage_comparison(opened, layers=[2])
    assert set(frame["layer"]) == {2}
    assert frame["entropy_a"].equals(frame["entropy_b"].rename("entropy_a"))
    backwards = metrics.stage_comparison(opened, "z", "x")
    assert backwards.select("run_a", "run_b").unique().rows() == [("z", "x")]
    with pytest.raises(UnknownNameError, match="has no run 'w'"):
        metrics.stage_comparison(opened, "w", "x")


def rerouted(world: World, run: str, seed: int, moe_layers: Sequence[int] | None = None) -> World:
    """The same texts under another run: here and there other experts, weights a little off, some tokens other ones."""
    rng = np.random.default_rng(seed)
    record = make_record(run, moe_layers=moe_layers or world.record.moe_layers)
    kept = [world.record.moe_layers.index(layer) for layer in record.moe_layers]

    def changed(text: Text) -> Text:
        experts, token_ids = text.experts[:, kept].copy(), text.token_ids.copy()
        other = rng.random(experts.shape[:2]) < 0.3
        experts[other] = (experts[other] + rng.integers(1, 3)) % record.num_experts
        token_ids[rng.random(len(token_ids)) < 0.1] += 1
        share = np.clip(text.weights[:, kept, :1] * rng.uniform(0.8, 1.0, experts.shape[:2])[..., None], 0, 1)
        weights = np.concatenate([share, 1 - share], axis=2).astype(np.float32)
        return replace(text, experts=experts, token_ids=token_ids, weights=weights, profile=text.profile[kept])

    texts = {lang: [changed(text) for text in reversed(found)][:-1] for lang, found in world.texts.items()}
    return World(record, texts)


@pytest.mark.parametrize("arguments", [{}, {"languages": ["swh_Latn"]}, {"layers": [5]}], ids=str)
def test_route_agreement_is_that_of_every_token_of_both_runs(arguments: dict[str, Any], tmp_path: Path) -> None:
    base = make_world(31, make_record("base"), texts=9)
    tuned = rerouted(base, "tuned", 1, moe_layers=[1, 5])
    opened = open_worlds(tmp_path, [base, tuned])
    expected = reference.route_agreement(base, tuned, **arguments)
    found = metrics.route_agreement(opened, "base", "tuned", **arguments)
    assert close(keyed(expected), keyed(found.to_dicts()), 1e-6)
    assert found["other_tokens"].min() > 0
    assert 0 < found["equal_sets"].min() < found["overlap"].max() < 1
    assert found.equals(metrics.route_agreement(opened, **arguments)), "of every pair there is but this one"


def test_route_agreement_of_a_run_with_itself_under_another_name_is_whole(tmp_path: Path) -> None:
    world = make_world(32, make_record("a"))
    again = World(replace(world.record, run="b"), world.texts)
    opened = open_worlds(tmp_path, [world, again])
    found = metrics.route_agreement(opened, "b", "a")
    assert set(found["equal_sets"]) == set(found["overlap"]) == {1.0}
    assert set(found["largest_weight_error"]) == {0.0}
    tokens = {lang: sum(len(text.token_ids) for text in texts) for lang, texts in world.texts.items()}
    assert dict(found.select("lang", "tokens").unique().rows()) == tokens


def test_runs_that_choose_other_experts_for_every_token_agree_on_none(tmp_path: Path) -> None:
    world = make_world(33, make_record("a"))

    def others(experts: np.ndarray) -> np.ndarray:
        rows = [np.setdiff1d(np.arange(8), chosen)[:2] for chosen in experts.reshape(-1, 2)]
        return np.array(rows, experts.dtype).reshape(experts.shape)

    texts = {
        lang: [replace(text, experts=others(text.experts)) for text in found] for lang, found in world.texts.items()
    }
    disjoint = World(replace(world.record, run="b"), texts)
    found = metrics.route_agreement(open_worlds(tmp_path, [world, disjoint]), "a", "b")
    assert set(found["equal_sets"]) == set(found["overlap"]) == {0.0}
    assert found["weight_error"].null_count() == len(found)


def test_route_agreement_needs_routes_and_as_many_experts_a_token(tmp_path: Path) -> None:
    worlds = [make_world(34, make_record("a")), make_world(35, make_record("b", top_k=3))]
    assert metrics.route_agreement(open_worlds(tmp_path / "k", worlds)).is_empty()
    with pytest.raises(UnknownNameError, match="c"):
        metrics.route_agreement(open_worlds(tmp_path / "k2", worlds), "a", "c")
