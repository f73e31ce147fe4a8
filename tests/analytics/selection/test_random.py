"""Drawing a control for a mask."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.masks.mask import build_mask
from moetrace.analytics.selection import random, rise, task, top_k
from moetrace.analytics.selection.selection import SelectionError
from moetrace.store.errors import UnknownNameError
from moetrace.store.mask import MaskError
from moetrace.store.read.reader import Store
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.selections import CREATED, LANGUAGES, RECORD, cells
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from tests.support.stores import World


def test_a_control_has_as_many_experts_of_each_layer_in_the_same_roles(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(rise(opened, "run", ["swh_Latn"], budget=23, min_count=0), RECORD, CREATED)
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
    like = build_mask(top_k(opened, "run", per_layer=3, min_count=0), RECORD, CREATED)
    found = random(opened, "run", like=like, seed=7)
    assert "".join(str(item.expert) for item in found.experts) == "125045136357267456347234"
    assert found.experts == random(opened, "run", like=like, seed=7).experts
    assert found.parameters["like"]["experts"] == 24


def test_a_control_is_for_the_same_model_only(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(top_k(opened, "run", per_layer=3, min_count=0), RECORD, CREATED)
    for run, message in (
        ("deeper", "MoE layers are 2-9, this model's are 2-10"),
        ("wider", "8 experts in a layer, this model has 9"),
    ):
        with pytest.raises(MaskError, match=f"like.json: .*{message}"):
            random(opened, run, like=like, where="like.json")
    with pytest.raises(SelectionError, match="the mask has no experts"):
        random(opened, "run", like={**like, "experts": []})
    other = {**like, "model": {**like["model"], "num_experts": 9}}
    with pytest.raises(MaskError, match=r"other.json: .*9 experts in a layer, this model has 8"):
        random(opened, "run", like=like, exclude={"other.json": other})


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
        random(connection, "run", like=build_mask(top_k(connection, "run", budget=3, min_count=0), other, CREATED))


def with_layers(like: dict[str, Any], experts: list[tuple[int, int]]) -> dict[str, Any]:
    """The mask with other experts."""
    return {**like, "experts": [{"layer": layer, "expert": expert, "role": "specific"} for layer, expert in experts]}


@pytest.fixture(scope="module")
def likes(opened: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    return build_mask(rise(opened, "run", ["swh_Latn"], budget=20, min_count=0), RECORD, CREATED)


def test_excluded_experts_are_not_drawn(opened: duckdb.DuckDBPyConnection, likes: dict[str, Any]) -> None:
    own = {(item["layer"], item["expert"]) for item in likes["experts"]}
    more = with_layers(likes, [(layer, 7) for layer in range(2, 10)])
    plain = [set(cells(random(opened, "run", like=likes, seed=seed))) for seed in range(20)]
    assert any(drawn & own for drawn in plain)
    for match in ("count", "load"):
        for seed in range(20):
            without = random(opened, "run", like=likes, match=match, exclude={"a": likes}, seed=seed)
            assert not set(cells(without)) & own
            neither = random(opened, "run", like=likes, match=match, exclude={"a": likes, "b": more}, seed=seed)
            assert not set(cells(neither)) & (own | {(layer, 7) for layer in range(2, 10)})
            assert len(cells(neither)) == len(own)
            assert len(neither.parameters["exclude"]) == 2
    # What is left is as likely as before: the draw is that of the whole layer, less what is excluded.
    drawn = [random(opened, "run", like=likes, exclude={"a": more}, seed=seed) for seed in range(20)]
    for found, before in zip(drawn, plain, strict=True):
        assert set(cells(found)) >= {cell for cell in before if cell[1] != 7}


@pytest.mark.parametrize("match", ["count", "load"])
def test_a_layer_must_have_experts_left(match: str, opened: duckdb.DuckDBPyConnection, likes: dict[str, Any]) -> None:
    five = with_layers(likes, [(4, expert) for expert in range(5)])
    with pytest.raises(SelectionError) as raised:
        random(opened, "run", like=five, match=match, exclude={"it": five}, where="five.json")
    assert str(raised.value) == (
        "layer 4: five.json has 5 experts there, and only 3 of 8 are left to draw from; --exclude fewer masks"
    )


@pytest.mark.parametrize("targets", [["swh_Latn"], ["swh_Latn", "eng_Latn"], []])
@pytest.mark.parametrize("excluding", [False, True])
def test_a_load_is_the_nearest_that_is_left(
    targets: list[str], *, excluding: bool, opened: duckdb.DuckDBPyConnection, world: World
) -> None:
    like = build_mask(top_k(opened, "run", targets, budget=17, min_count=0), RECORD, CREATED)
    data = reference.routing(world)
    count = sum(data.count[lang] for lang in targets or LANGUAGES)
    exclude = {"like.json": like} if excluding else {}
    found = random(opened, "run", like=like, match="load", exclude=exclude, slack=0)
    own = {(item["layer"], item["expert"]) for item in like["experts"]}
    for index, layer in enumerate(data.layers):
        theirs = [cell[1] for cell in own if cell[0] == layer]
        ours = [item.expert for item in found.experts if item.layer == layer]
        wanted, got = count[index, theirs].sum(), count[index, ours].sum()
        rest = [expert for expert in range(8) if not excluding or expert not in theirs]
        best = min(abs(count[index, list(few)].sum() - wanted) for few in combinations(rest, len(theirs)))
        assert len(ours) == len(theirs)
        assert abs(got - wanted) == best
    told = found.parameters["load"]
    assert told["asked"] == pytest.approx(reference_selections.load(data, own, targets or LANGUAGES), abs=1e-12)
    assert told["got"] == pytest.approx(reference_selections.load(data, cells(found), targets or LANGUAGES), abs=1e-12)
    assert told["got"] == (found.load.target if targets else found.load.others)
    if not excluding:
        assert told["got"] == told["asked"]
    for row in told["layers"]:
        index = data.layers.index(row["layer"])
        ours = [item.expert for item in found.experts if item.layer == row["layer"]]
        assert row["got"] == pytest.approx(count[index, ours].sum() / count[index].sum(), abs=1e-12)
    widest = max(told["layers"], key=lambda row: abs(row["got"] - row["asked"]))
    assert found.notes[0].endswith(f"layer {widest['layer']}: {widest['got']:.4f} and {widest['asked']:.4f}")


MANY = make_record(languages=["a", "b"], moe_layers=[0, 1], num_experts=64, top_k=1, tables=["usage"])
STEPS = {"a": (5, 11), "b": (13, 27)}


def two_layers_of_many(tmp_path: Path) -> duckdb.DuckDBPyConnection:
    """Two layers of 64 experts, which two languages use as unevenly as those of real models are used."""
    uneven, places = 40_000 // (np.arange(64) + 1), np.arange(64)
    rows = {lang: np.stack([uneven[places * step % 64] for step in steps]) for lang, steps in STEPS.items()}
    return connect(write_counts(tmp_path, MANY, rows, dict.fromkeys(rows, int(uneven.sum()))))


def test_seeds_draw_other_experts_of_nearly_the_same_load(tmp_path: Path) -> None:
    opened = two_layers_of_many(tmp_path)
    like = build_mask(rise(opened, "run", ["a"], budget=12), MANY, CREATED)
    drawn = [random(opened, "run", like=like, match="load", exclude={"": like}, seed=seed) for seed in range(30)]
    assert len({tuple(cells(found)) for found in drawn}) > 20
    nearest = random(opened, "run", like=like, match="load", exclude={"": like}, slack=0)
    asked = nearest.parameters["load"]["asked"]
    least = abs(nearest.load.target - asked)
    for found in drawn:
        assert found.parameters["load"]["asked"] == asked
        assert abs(found.load.target - asked) <= least + 0.05 * asked + 1e-12
    by_count = [random(opened, "run", like=like, exclude={"": like}, seed=seed) for seed in range(30)]
    assert max(found.load.target for found in by_count) < min(found.load.target for found in drawn)
    again = random(opened, "run", like=like, match="load", exclude={"": like}, seed=7)
    assert again == drawn[7]
    assert drawn[7].languages == ("a",)
    # The same on every machine: whole numbers and SHA-256 alone say which.
    assert [item.expert for item in drawn[7].experts] == [1, 2, 15, 16, 40, 53, 54, 7, 12, 18, 53, 59]


def test_a_control_says_what_its_load_is_and_what_nobody_knows(
    opened: duckdb.DuckDBPyConnection, likes: dict[str, Any], world: World
) -> None:
    data = reference.routing(world)
    found = random(opened, "run", like=likes, seed=2)
    asked = reference_selections.load(
        data, [(item["layer"], item["expert"]) for item in likes["experts"]], ["swh_Latn"]
    )
    assert set(found.parameters) == {"seed", "match", "like", "exclude", "load"}
    assert found.parameters["load"] == {"asked": pytest.approx(asked, abs=1e-12), "got": found.load.target}
    others = reference_selections.load(data, cells(found), ["deu_Latn", "eng_Latn"])
    assert found.load.others == pytest.approx(others, abs=1e-12)
    assert found.notes == (
        f"load of swh_Latn: {found.load.target:.4f}, that of the mask it is a control for {asked:.4f}",
    )
    of_two = {**likes, "provenance": {**likes["provenance"], "languages": ["swh_Latn", "deu_Latn", "not_Here"]}}
    assert random(opened, "run", like=of_two, seed=2).load.others == pytest.approx(
        reference_selections.load(data, cells(found), ["deu_Latn"]), abs=1e-12
    )
    foreign = {**likes, "strategy": {**likes["strategy"], "target": "not_Here"}}
    unknown = random(opened, "run", like=foreign)
    assert (unknown.parameters["load"], unknown.load.target, unknown.load.others) == (None, None, None)
    with pytest.raises(UnknownNameError, match="run 'run' has no language 'not_Here'"):
        random(opened, "run", like=foreign, match="load")
    with pytest.raises(SelectionError, match="run 'routes' has no usage"):
        random(opened, "routes", like=likes, match="load")
    for wrong in ({"match": "loads"}, {"slack": 1.5}, {"slack": float("nan")}):
        with pytest.raises(SelectionError, match=f"{next(iter(wrong))} .*: pass .* with --{next(iter(wrong))}"):
            random(opened, "run", like=likes, **wrong)
