"""Selecting task experts, against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import task
from moetrace.analytics.selection.selection import SelectionError
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.stores import World, make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


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


def test_a_model_without_middle_layers_has_no_task_experts(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_world(tmp_path, make_world(1, make_record(name, moe_layers=[0, 1])))
    with pytest.raises(SelectionError, match=r"tau -2 .*the model's middle zone has no layers"):
        task(connect(tmp_path), "x", against="y", tau=-2)


def test_a_layer_gives_its_first_experts(opened: duckdb.DuckDBPyConnection, world: World, general: World) -> None:
    every = reference_selections.task(reference.routing(world), reference.routing(general), -2, None)
    found = task(opened, "run", against="general", tau=-2, per_layer=3)
    for layer in (5, 6):
        scores = {cell: score for cell, score in every.items() if cell[0] == layer}
        first = sorted(scores, key=lambda cell: (-round(scores[cell], 12), cell))[:3]
        assert sorted(first) == [(item.layer, item.expert) for item in found.experts if item.layer == layer]
    assert found.parameters["per_layer"] == 3
    assert {item.reason for item in found.missed} == {
        "middle: above tau -2 against general, and not of its layer's first 3"
    }
    with pytest.raises(SelectionError, match="per layer 0: pass at least 1"):
        task(opened, "run", against="general", per_layer=0)


def test_the_middle_can_be_where_the_languages_are(opened: duckdb.DuckDBPyConnection) -> None:
    middle = {
        layer
        for (layer,) in opened.execute(
            "select layer from zones_auto() where run = 'general' and zone = 'middle'"
        ).fetchall()
    }
    found = task(opened, "run", against="general", tau=-2, zones="auto")
    assert {item.layer for item in found.experts} == middle
    assert found.parameters["zones"] == "auto"
    with pytest.raises(SelectionError, match="zones 'own': pass one of fixed, auto"):
        task(opened, "run", against="general", zones="own")


def test_one_language_has_no_middle_of_its_own(tmp_path: Path) -> None:
    for name in ("x", "y"):
        world = make_world(1, make_record(name, languages=["eng_Latn"]))
        write_world(tmp_path, world)
    with pytest.raises(SelectionError, match="run 'y': is of one language, and zones auto are where languages differ"):
        task(connect(tmp_path), "x", against="y", zones="auto")
