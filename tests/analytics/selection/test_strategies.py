"""Every strategy but rise: against its reference, on any world, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.query import connect_safely
from moetrace.analytics.masks.mask import build_mask
from moetrace.analytics.selection import gap, random, rise, sql, task, top_k, top_p
from moetrace.analytics.selection.selection import Selection, SelectionError
from moetrace.store.errors import MoetraceError, UnknownNameError
from moetrace.store.mask import MaskError
from moetrace.store.read.reader import Store
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.examples import examples
from tests.support.stores import World, make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import duckdb

LANGUAGES = ("deu_Latn", "eng_Latn", "swh_Latn")
RECORD = make_record(moe_layers=range(2, 10), num_experts=8)
GENERAL = make_record("general", moe_layers=range(2, 10), num_experts=8)
CREATED = "2025-01-01T00:00:00+00:00"


def cells(selection: Selection) -> list[tuple[int, int]]:
    return [(item.layer, item.expert) for item in selection.experts]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(1, RECORD)


@pytest.fixture(scope="module")
def general() -> World:
    return make_world(2, GENERAL)


@pytest.fixture(scope="module")
def folder(world: World, general: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strategies") / "store"
    write_world(path, world)
    write_world(path, general)
    write_world(path, make_world(3, make_record("deeper", moe_layers=range(2, 11))))
    write_world(path, make_world(4, make_record("wider", moe_layers=range(2, 10), num_experts=9, top_k=3)))
    write_world(path, make_world(5, make_record("routes", moe_layers=range(2, 10), tables=["tokens", "routes"])))
    write_counts(path, make_record("counts", tables=["usage"]), {"a": np.full((3, 8), 5)}, {"a": 20})
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> duckdb.DuckDBPyConnection:
    return connect(folder)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("layers", [1, 2, 8])
@pytest.mark.parametrize("shared", [0, 3, 8])
def test_gap_selects_what_the_reference_selects(seed: int, layers: int, shared: int, tmp_path: Path) -> None:
    made = make_world(seed, RECORD)
    connection, data = connect(write_world(tmp_path, made)), reference.routing(made)
    for targets in (["swh_Latn"], ["swh_Latn", "eng_Latn"]):
        expected = reference_selections.gap(data, targets, LANGUAGES, layers, 0.05, shared)
        if "specific" not in expected.values():
            with pytest.raises(SelectionError, match=r"by a gap of 0.05 \(.*\); lower --alpha"):
                gap(connection, "run", targets, layers=layers, shared=shared, alpha=0.05)
            continue
        found = gap(connection, "run", targets, layers=layers, shared=shared, alpha=0.05)
        assert {(item.layer, item.expert): item.role for item in found.experts} == expected
        for layer in RECORD.moe_layers[-layers:]:
            roles = [item.role for item in found.experts if item.layer == layer]
            assert roles.count("shared") == min(shared, 8 - roles.count("specific"))


def test_gap_takes_its_defaults_from_the_paper_and_the_run(opened: duckdb.DuckDBPyConnection, world: World) -> None:
    found = gap(opened, "run", ["swh_Latn"])
    assert found.parameters == {"layers": 2, "alpha": 0.01, "shared": 2, "parent": None, "reference": []}
    expected = reference_selections.gap(reference.routing(world), ["swh_Latn"], LANGUAGES, 2, 0.01, 2)
    assert set(cells(found)) == set(expected)


def test_a_gap_of_exactly_alpha_is_enough(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0, 1], num_experts=4, top_k=1)
    a, b = np.array([[6, 2, 1, 1]] * 2), np.array([[5, 2, 1, 2]] * 2)
    connection = connect(write_counts(tmp_path, record, {"a": a, "b": b}, {"a": 10, "b": 10}))
    # 0.6 - 0.5 is less than 0.1 in binary.
    found = gap(connection, "run", ["a"], layers=1, alpha=0.1, shared=0)
    assert cells(found) == [(1, 0)]
    with pytest.raises(SelectionError, match="lower --alpha"):
        gap(connection, "run", ["a"], layers=1, alpha=0.100001, shared=0)


def test_a_target_borrows_its_parents_set(opened: duckdb.DuckDBPyConnection) -> None:
    own = gap(opened, "run", ["swh_Latn"])
    borrowed = gap(opened, "run", ["swh_Latn"], parent="eng_Latn")
    assert cells(borrowed) == cells(gap(opened, "run", ["eng_Latn"])) != cells(own)
    assert borrowed.targets == ("swh_Latn",)
    assert borrowed.parameters["parent"] == "eng_Latn"
    of_two = gap(opened, "run", ["swh_Latn"], reference=["swh_Latn"], parent="eng_Latn")
    assert of_two.languages == ("eng_Latn", "swh_Latn")


@pytest.mark.parametrize("score", ["token", "gate"])
@pytest.mark.parametrize("p", [0.0001, 0.2, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("targets", [[], ["swh_Latn"], ["eng_Latn", "deu_Latn"]])
def test_top_p_selects_what_the_reference_selects(
    score: str, p: float, targets: list[str], opened: duckdb.DuckDBPyConnection, world: World
) -> None:
    found = top_p(opened, "run", targets, score=score, p=p)
    expected = reference_selections.top_p(reference.routing(world), targets or LANGUAGES, score, p)
    ranked = sorted(found.experts, key=lambda item: (item.layer, -item.score, item.expert))
    by_layer = {layer: [item.expert for item in rows] for layer, rows in groupby(ranked, key=lambda item: item.layer)}
    assert by_layer == expected
    assert found.languages == tuple(sorted(targets or LANGUAGES))


@given(st.lists(st.integers(0, 400), min_size=4, max_size=4).filter(any), st.integers(1, 10_000))
@examples(40)
def test_top_p_takes_no_more_experts_than_it_needs(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], steps: int
) -> None:
    record = make_record(languages=["a"], moe_layers=[0], num_experts=4, top_k=1, tables=["usage"])
    tokens = sum(counts)
    path = tmp_path_factory.mktemp("top-p")
    connection = connect(write_counts(path, record, {"a": np.array([counts])}, {"a": tokens}))
    found = top_p(connection, "run", p=steps / 10_000).experts
    scores = sorted((round(10_000 * item.score) for item in found), reverse=True)
    assert sum(scores[:-1]) < steps
    assert sum(scores) >= steps or len(found) == 4
    left = [
        round(10_000 * count / tokens) for expert, count in enumerate(counts) if expert not in {i.expert for i in found}
    ]
    assert max(left, default=0) <= scores[-1]


@pytest.mark.parametrize("targets", [[], ["swh_Latn"], ["eng_Latn", "deu_Latn"]])
def test_top_k_selects_what_the_reference_selects_for_every_budget(
    targets: list[str], opened: duckdb.DuckDBPyConnection, world: World
) -> None:
    data = reference.routing(world)
    for budget in range(1, 65):
        found = top_k(opened, "run", targets, budget=budget)
        assert len(found.experts) == budget
        assert cells(found) == sorted(reference_selections.top_k(data, targets or LANGUAGES, budget))
    for number in range(1, 9):
        found = top_k(opened, "run", targets, per_layer=number)
        expected = reference_selections.top_k(data, targets or LANGUAGES, number, per_layer=True)
        assert cells(found) == sorted(expected)


@pytest.mark.parametrize("lang", [None, "swh_Latn"])
@pytest.mark.parametrize("tau", [-1.5, 0.0, 0.1, 0.25])
def test_task_selects_what_the_reference_selects(
    lang: str | None, tau: float, opened: duckdb.DuckDBPyConnection, world: World, general: World
) -> None:
    found = task(opened, "run", [lang] if lang else [], against="general", tau=tau)
    expected = reference_selections.task(reference.routing(world), reference.routing(general), tau, lang)
    assert {(item.layer, item.expert): item.score for item in found.experts} == pytest.approx(expected)
    assert {(item.role, item.zone) for item in found.experts} == {("task", "middle")}
    assert {item.layer for item in found.experts} <= {5, 6}
    assert len(found.experts) + len(found.missed) <= 16


def test_a_control_has_as_many_experts_of_each_layer_in_the_same_roles(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(rise(opened, "run", ["swh_Latn"], budget=23), RECORD, CREATED)
    drawn = [random(opened, "run", like=like, seed=seed) for seed in range(40)]

    def kinds(experts: Any) -> list[tuple[int, str, str]]:
        return sorted((item["layer"], item["role"], item["zone"]) for item in experts)

    for selection in drawn:
        assert kinds(build_mask(selection, RECORD, CREATED)["experts"]) == kinds(like["experts"])
        assert len(set(cells(selection))) == 23
    assert len({tuple(cells(selection)) for selection in drawn}) == 40
    counts = np.zeros(8)
    for selection in drawn:
        counts += np.bincount([item.expert for item in selection.experts], minlength=8)
    # 115 of each are expected, with a standard deviation of 9 at most.
    assert counts.min() > 80
    assert counts.max() < 150


def test_a_seed_means_the_same_everywhere(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(top_k(opened, "run", per_layer=3), RECORD, CREATED)
    found = random(opened, "run", like=like, seed=7)
    assert "".join(str(item.expert) for item in found.experts) == "125045136357267456347234"
    assert found.experts == random(opened, "run", like=like, seed=7).experts
    assert found.parameters["like"]["experts"] == 24


def test_a_control_is_for_the_same_model_only(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(top_k(opened, "run", per_layer=3), RECORD, CREATED)
    for run, message in (
        ("deeper", "MoE layers are 2-9, this model's are 2-10"),
        ("wider", "8 experts in a layer, this model has 9"),
    ):
        with pytest.raises(MaskError, match=f"like.json: .*{message}"):
            random(opened, run, like=like, where="like.json")
    with pytest.raises(SelectionError, match="the mask has no experts"):
        random(opened, "run", like={**like, "experts": []})


def test_a_query_selects_the_experts_it_returns(folder: Path, world: World) -> None:
    query = """
        select layer, expert, frequency as Score
        from activation
        where run = 'run' and lang = 'swh_Latn' and frequency > 0.5
        """
    found = sql(connect_safely(folder), "run", query=query)
    frequency = reference.routing(world).frequency("swh_Latn")
    expected = {
        (layer, expert): frequency[index, expert]
        for index, layer, expert in reference.routing(world).cells()
        if frequency[index, expert] > 0.5
    }
    assert {(item.layer, item.expert): item.score for item in found.experts} == pytest.approx(expected)
    assert cells(found) == sorted(expected)
    without = sql(connect_safely(folder), "run", query="select 7::utinyint as expert, 9::bigint as layer;")
    assert [(item.layer, item.expert, item.score) for item in without.experts] == [(9, 7, None)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select 1 as layer, 0 as expert", "row 1: layer 1 is no MoE layer of run 'run', which are 2-9"),
        ("from (values (2, 0), (2, 8)) as t(layer, expert)", "row 2: expert 8, but a layer of run 'run' has 8"),
        ("select 2 as layer, -1 as expert", "row 1: expert -1, but"),
        ("from (values (2, 0), (2, 0)) as t(layer, expert)", "row 2: layer 2, expert 0 stands twice"),
        ("from (values (2, null)) as t(layer, expert)", "row 1: expert is NULL"),
        ("from (values (2, 0, null)) as t(layer, expert, score)", "row 1: score is NULL"),
        ("select 2.5 as layer, 0 as expert", "layer Decimal.'2.5'. is not a whole number"),
        ("select 2 as layer, true as expert", "expert True is not a whole number"),
        ("select 2 as layer, 0 as expert, 'nan'::float as score", "score nan is not a finite number"),
        ("select 2 as layer, 0 as expert, 'high' as score", "score high is not a finite number"),
        ("select 2 as layer", "returns columns layer; it must return layer, expert"),
        ("select 2 as layer, 0 as expert, 1 as rank", "it must return layer, expert"),
        ("select layer, expert from activation where false", "returns no rows"),
        ("select 1; select 2", "has 2 results"),
        ("", "has 0 results"),
    ],
)
def test_a_query_that_selects_no_experts_is_refused(query: str, message: str, folder: Path) -> None:
    with pytest.raises(SelectionError, match=message):
        sql(connect_safely(folder), "run", query=query)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("selekt 1", "syntax error"),
        ("from nothing", "nothing does not exist"),
        ("from read_text('/etc/hostname')", "disabled"),
        ("copy (select 1) to 'file'", "not allowed"),
        ("select 'a'::int as layer, 0 as expert", "Could not convert"),
    ],
)
def test_what_is_no_query_is_refused_in_one_line(query: str, message: str, folder: Path) -> None:
    with pytest.raises(MoetraceError, match=message) as raised:
        sql(connect_safely(folder), "run", query=query)
    assert "\n" not in str(raised.value)


SELECT: dict[str, Callable[..., Selection]] = {"gap": gap, "top-p": top_p, "top-k": top_k, "task": task}


@pytest.mark.parametrize(
    ("strategy", "targets", "options", "error", "message"),
    [
        *(
            (name, ["swh"], {"against": "general"} if name == "task" else {}, UnknownNameError, "did you mean swh_Latn")
            for name in SELECT
        ),
        ("gap", [], {}, SelectionError, "name it with --target"),
        ("gap", ["swh_Latn"], {"reference": ["english"]}, UnknownNameError, "did you mean eng_Latn"),
        ("gap", ["swh_Latn"], {"reference": ["swh_Latn"]}, SelectionError, "swh_Latn is the only one"),
        ("gap", ["swh_Latn"], {"parent": "eng"}, UnknownNameError, "did you mean eng_Latn"),
        (
            "gap",
            ["swh_Latn"],
            {"layers": 9},
            SelectionError,
            "layers 9: run 'run' has 8 MoE layers; pass --layers 1 to 8",
        ),
        ("gap", ["swh_Latn"], {"layers": 0}, SelectionError, "layers 0: "),
        ("gap", ["swh_Latn"], {"shared": 9}, SelectionError, "shared 9: .*pass --shared 0 to 8"),
        ("gap", ["swh_Latn"], {"alpha": 1}, SelectionError, "of theirs is 0[.][0-9]+.; lower --alpha"),
        ("gap", ["swh_Latn"], {"alpha": float("nan")}, SelectionError, "alpha nan: pass a finite number"),
        ("top-p", [], {"p": 0}, SelectionError, "p 0: pass a share above 0"),
        ("top-p", [], {"p": 1.01}, SelectionError, "p 1.01: pass a share above 0"),
        ("top-p", [], {"score": "tokens"}, SelectionError, "score 'tokens': pass one of token, gate"),
        ("top-k", [], {"budget": 65}, SelectionError, "budget 65: run 'run' has 64 experts; pass --budget 1 to 64"),
        ("top-k", [], {"budget": 0}, SelectionError, "budget 0: "),
        ("top-k", [], {"per_layer": 9}, SelectionError, "per-layer 9: a layer of run 'run' has 8 experts"),
        ("top-k", [], {"per_layer": 1, "budget": 1}, SelectionError, "not both"),
        ("task", ["swh_Latn", "eng_Latn"], {"against": "general"}, SelectionError, "in one language or in all"),
        ("task", [], {"against": "generel"}, UnknownNameError, "did you mean general"),
        ("task", [], {"against": "run"}, SelectionError, "cannot be compared with itself"),
        ("task", [], {"against": "deeper"}, SelectionError, "of other models: MoE layers 2-9 and 2-10"),
        ("task", [], {"against": "wider"}, SelectionError, "experts in a layer 8 and 9; top-k 2 and 3"),
        ("task", [], {"against": "routes"}, SelectionError, "has no usage"),
        ("task", [], {"against": "general", "tau": 1.0}, SelectionError, "above tau 1 .*score is .*; lower --tau"),
    ],
)
def test_what_cannot_be_selected_is_a_one_line_error(
    strategy: str,
    targets: list[str],
    options: dict[str, Any],
    error: type[MoetraceError],
    message: str,
    opened: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(error, match=message) as raised:
        SELECT[strategy](opened, "run", targets, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("strategy", ["gap", "top-p", "top-k"])
def test_a_run_without_usage_cannot_be_selected_from(strategy: str, opened: duckdb.DuckDBPyConnection) -> None:
    targets = ["swh_Latn"]
    with pytest.raises(SelectionError, match="run 'routes' has no usage"):
        SELECT[strategy](opened, "routes", targets)
    with pytest.raises(UnknownNameError, match="the store has no run 'ruotes'; did you mean routes"):
        SELECT[strategy](opened, "ruotes", targets)


def test_counts_without_texts_or_weights_say_what_is_missing(tmp_path: Path) -> None:
    records = [make_record(name, ["a"], moe_layers=[0, 1, 2], tables=["usage"]) for name in ("x", "y")]
    for record in records:
        write_counts(tmp_path, record, {"a": np.full((3, 8), 5)}, {"a": 20})
    connection = connect(tmp_path)
    assert len(top_p(connection, "x").experts) == 6
    with pytest.raises(SelectionError, match="has no gate weights; pass --score token"):
        top_p(connection, "x", score="gate")
    with pytest.raises(SelectionError, match="imported without texts"):
        task(connection, "x", against="y")


def test_a_model_without_middle_layers_has_no_task_experts(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_world(tmp_path, make_world(1, make_record(name, moe_layers=[0, 1])))
    with pytest.raises(SelectionError, match=r"tau -2 .*the model's middle zone has no layers"):
        task(connect(tmp_path), "x", against="y", tau=-2)


def test_just_missed_experts_are_the_next_ones(opened: duckdb.DuckDBPyConnection) -> None:
    for budget in range(1, 64):
        now, one_more = (top_k(opened, "run", ["swh_Latn"], budget=number) for number in (budget, budget + 1))
        assert {(item.layer, item.expert) for item in now.missed} == set(cells(one_more)) - set(cells(now))
    assert top_k(opened, "run", budget=64).missed == ()
    for item in rise(opened, "run", ["swh_Latn"], budget=20).missed:
        chosen = [other for other in rise(opened, "run", ["swh_Latn"], budget=20).experts if other.zone == item.zone]
        assert item.score <= min(other.score for other in chosen)
    lowest = gap(opened, "run", ["swh_Latn"], alpha=0.05, shared=1)
    for item in lowest.missed:
        if item.role == "specific":
            wider = gap(opened, "run", ["swh_Latn"], alpha=item.score, shared=0)
            assert (item.layer, item.expert) in cells(wider)


def test_the_mask_of_a_control_names_what_it_is_a_control_for(folder: Path) -> None:
    connection, record = connect(folder), Store(folder).run("run")
    like = build_mask(task(connection, "run", against="general"), record, CREATED)
    control = build_mask(random(connection, "run", like=like, seed=1), record, CREATED)
    assert control["strategy"]["parameters"]["like"]["strategy"] == "task"
    assert {item["role"] for item in control["experts"]} == {"task"}
    assert json.dumps(control) == json.dumps(
        build_mask(random(connection, "run", like=json.loads(json.dumps(like)), seed=1), record, CREATED)
    )
    other = replace(record, model={**record.model, "config_sha256": "1" * 64})
    with pytest.raises(MaskError, match=r"config digest 1111"):
        random(connection, "run", like=build_mask(top_k(connection, "run", budget=3), other, CREATED))
