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
