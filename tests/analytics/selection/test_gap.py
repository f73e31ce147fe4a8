"""Selecting by activation gap, against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import gap
from moetrace.analytics.selection.selection import SelectionError
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.selections import LANGUAGES, RECORD, cells
from tests.support.stores import World, make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


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
    record = make_record(languages=["a", "b"], moe_layers=[0, 1], num_experts=4, top_k=1, tables=["usage"])
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
