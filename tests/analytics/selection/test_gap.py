"""Selecting by activation gap, against the reference."""

from __future__ import annotations

from functools import partial
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

select = partial(gap, min_count=0)  # these worlds have a handful of tokens


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
                select(connection, "run", targets, layers=layers, shared=shared, alpha=0.05)
            continue
        found = select(connection, "run", targets, layers=layers, shared=shared, alpha=0.05)
        assert {(item.layer, item.expert): item.role for item in found.experts} == expected
        for layer in RECORD.moe_layers[-layers:]:
            roles = [item.role for item in found.experts if item.layer == layer]
            assert roles.count("shared") == min(shared, 8 - roles.count("specific"))


def test_gap_takes_its_defaults_from_the_authors_code(opened: duckdb.DuckDBPyConnection, world: World) -> None:
    found = select(opened, "run", ["swh_Latn"])
    assert found.parameters == {
        "layers": 2,
        "alpha": 0.01,
        "shared": 5,
        "parent": None,
        "min_count": 0,
        "reference": [],
    }
    expected = reference_selections.gap(reference.routing(world), ["swh_Latn"], LANGUAGES, 2, 0.01, 5)
    assert {(item.layer, item.expert): item.role for item in found.experts} == expected


def test_a_layer_with_fewer_experts_has_as_many_shared_ones_as_are_left(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0, 1], num_experts=4, top_k=1, tables=["usage"])
    rows = {"a": np.array([[60, 30, 10, 0]] * 2), "b": np.array([[20, 30, 30, 20]] * 2)}
    found = select(connect(write_counts(tmp_path, record, rows, {"a": 100, "b": 100})), "run", ["a"])
    assert cells(found) == [(layer, expert) for layer in (0, 1) for expert in range(4)]
    assert [item.role for item in found.experts] == ["specific", "shared", "shared", "shared"] * 2
    assert found.parameters["shared"] == 4


@pytest.mark.parametrize("min_count", [3, 7, 12, 20])
def test_an_own_expert_with_few_decisions_is_none(
    min_count: int, opened: duckdb.DuckDBPyConnection, world: World
) -> None:
    data = reference.routing(world)
    for targets, layers in ((["swh_Latn"], 8), (["swh_Latn", "deu_Latn"], 4)):
        expected = reference_selections.gap(data, targets, LANGUAGES, layers, 0.01, 3, min_count)
        if "specific" not in expected.values():
            with pytest.raises(SelectionError, match=rf"with at least {min_count} routing .* lower --min-count"):
                gap(opened, "run", targets, layers=layers, shared=3, min_count=min_count)
            continue
        found = gap(opened, "run", targets, layers=layers, shared=3, min_count=min_count)
        assert {(item.layer, item.expert): item.role for item in found.experts} == expected
        assert found.parameters["min_count"] == min_count


def test_a_gap_of_exactly_alpha_is_enough(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0, 1], num_experts=4, top_k=1, tables=["usage"])
    a, b = np.array([[6, 2, 1, 1]] * 2), np.array([[5, 2, 1, 2]] * 2)
    connection = connect(write_counts(tmp_path, record, {"a": a, "b": b}, {"a": 10, "b": 10}))
    # 0.6 - 0.5 is less than 0.1 in binary.
    found = select(connection, "run", ["a"], layers=1, alpha=0.1, shared=0)
    assert cells(found) == [(1, 0)]
    with pytest.raises(SelectionError, match="lower --alpha"):
        select(connection, "run", ["a"], layers=1, alpha=0.100001, shared=0)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """Of one layer, a child that uses most what its parent uses, and two others."""
    rows = {
        "child": [500, 310, 50, 80, 30, 30],
        "parent": [450, 300, 100, 50, 50, 50],
        "x": [100, 50, 90, 560, 100, 100],
        "y": [50, 100, 20, 30, 400, 400],
    }
    counts = {lang: np.array([row]) for lang, row in rows.items()}
    record = make_record(languages=list(rows), moe_layers=[0], num_experts=6, top_k=1, tables=["usage"])
    folder = tmp_path_factory.mktemp("family")
    return connect(write_counts(folder, record, counts, dict.fromkeys(rows, 1000)))


def test_a_target_is_not_compared_with_the_parent_whose_set_it_borrows(family: duckdb.DuckDBPyConnection) -> None:
    def own(*targets: str, **options: object) -> list[int]:
        found = gap(family, "run", targets, layers=1, shared=0, **options)
        return [item.expert for item in found.experts]

    # Beside its child the parent leads in expert 2 alone: where both lead, the child is ahead.
    assert own("parent") == [2]
    assert own("child", parent="parent") == own("parent", reference=["x", "y"]) == [0, 1, 2]
    assert own("child", parent="parent", reference=["child", "x"]) == own("parent", reference=["x"]) == [0, 1, 2]
    assert own("child", "x", parent="parent") == own("parent", reference=["y"])
    borrowed = gap(family, "run", ["child"], layers=1, shared=2, parent="parent")
    assert (borrowed.targets, borrowed.languages) == (("child",), ("parent", "x", "y"))
    assert borrowed.parameters["parent"] == "parent"
    # Shared ones, too, are those of the compared: mean p is .225 for 3, .183 for 4 and 5.
    assert [item.expert for item in borrowed.experts if item.role == "shared"] == [3, 4]
    assert [item.count for item in borrowed.experts] == [500, 310, 50, 80, 30]


def test_the_least_count_of_a_borrowed_set_is_the_parents(family: duckdb.DuckDBPyConnection) -> None:
    found = gap(family, "run", ["child"], layers=1, shared=0, parent="parent", min_count=100)
    assert [(item.expert, item.count) for item in found.experts] == [(0, 500), (1, 310), (2, 50)]
    with pytest.raises(SelectionError) as raised:
        gap(family, "run", ["child"], layers=1, shared=0, parent="parent", min_count=451)
    assert str(raised.value) == (
        "run 'run': no expert of the last 1 MoE layers belongs to parent by a gap of 0.01 with at least 451 routing "
        "decisions of it (3 with fewer); lower --min-count (0: no such rule) or trace more"
    )


def test_a_parent_needs_somebody_to_be_compared_with(family: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(SelectionError, match="parent is the only one"):
        gap(family, "run", ["child"], parent="parent", reference=["child"])
    with pytest.raises(SelectionError, match="'child' cannot borrow its own set; name another language with --parent"):
        gap(family, "run", ["child"], parent="child")
