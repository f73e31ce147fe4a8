"""Selecting by RISE: against its reference, its budget on models of any depth, and what it refuses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import rise
from moetrace.analytics.selection.selection import SelectionError
from moetrace.store.errors import MoetraceError, UnknownNameError
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.examples import examples
from tests.support.stores import make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

select = partial(rise, min_count=0)  # RISE's own: these worlds have a handful of tokens
LANGUAGES = ("deu_Latn", "eng_Latn", "swh_Latn")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    return connect(write_world(tmp_path_factory.mktemp("store"), make_world(1)))


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("seed", [1, 2])
def test_rise_selects_what_the_reference_selects_for_every_budget(layers: int, seed: int, tmp_path: Path) -> None:
    world = make_world(seed, make_record(moe_layers=range(3, 3 + 2 * layers, 2), num_experts=4), unused_experts=1)
    opened = connect(write_world(tmp_path, world))
    data = reference.routing(world)
    for budget in range(1, 4 * layers + 1):
        selected = select(opened, "run", ["swh_Latn"], budget=budget).experts
        assert len(selected) == budget
        assert [(item.layer, item.expert, item.zone) for item in selected] == sorted(
            reference_selections.rise(data, "swh_Latn", budget)
        )


@pytest.mark.parametrize("targets", [["swh_Latn"], ["swh_Latn", "deu_Latn"]])
@pytest.mark.parametrize(("min_count", "shrinkage"), [(0, 3.0), (4, 0.0), (9, 0.0), (9, 0.5), (4, 20.0)])
def test_few_decisions_count_as_the_reference_says(
    targets: list[str], min_count: int, shrinkage: float, tmp_path: Path
) -> None:
    world = make_world(8, make_record(moe_layers=range(8), num_experts=8), unused_experts=2)
    opened = connect(write_world(tmp_path, world))
    data = reference.routing(world)
    found = 0
    for budget in range(1, 65, 3):
        expected = reference_selections.rise(data, targets, budget, min_count=min_count, shrinkage=shrinkage)
        if len(expected) < budget:
            with pytest.raises(SelectionError, match=r"zone: only \d+ of its 24 experts have .* lower --min-count"):
                rise(opened, "run", targets, budget=budget, min_count=min_count, shrinkage=shrinkage)
            continue
        chosen = rise(opened, "run", targets, budget=budget, min_count=min_count, shrinkage=shrinkage).experts
        assert [(item.layer, item.expert, item.zone) for item in chosen] == sorted(expected)
        found += 1
    assert found >= 3
    assert found < 22 or not min_count


def test_an_expert_of_just_the_least_count_is_a_candidate_and_shared_ones_need_none(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=range(8), num_experts=4, top_k=1, tables=["usage"])
    a, b = np.tile([30, 29, 0, 941], (8, 1)), np.tile([1, 1, 0, 998], (8, 1))
    opened = connect(write_counts(tmp_path, record, {"a": a, "b": b}, {"a": 1000, "b": 1000}))
    found = rise(opened, "run", ["a"], budget=13, middle=0.5)
    of_zone = {zone: [item.expert for item in found.experts if item.zone == zone] for zone in found.zones}
    assert of_zone == {"shallow": [0, 3, 3, 3], "middle": [0, 1, 3, 0, 1, 3], "deep": [3, 3, 3]}
    assert found.parameters["min_count"] == 30
    with pytest.raises(SelectionError) as raised:
        rise(opened, "run", ["a"], budget=16)
    assert str(raised.value) == (
        "budget 16, of which 7 in the deep zone: only 6 of its 12 experts have 30 routing decisions of a or more; "
        "lower --min-count (0: no such rule), trace more or lower --budget"
    )


def test_a_target_with_few_decisions_does_not_hide_another_with_many(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b", "c"], moe_layers=range(8), num_experts=4, top_k=1, tables=["usage"])
    counts = {"a": [20, 0, 0, 0], "b": [400, 600, 0, 0], "c": [0, 0, 400, 600]}
    rows = {lang: np.tile(row, (8, 1)) for lang, row in counts.items()}
    opened = connect(write_counts(tmp_path, record, rows, {"a": 20, "b": 1000, "c": 1000}))
    item = rise(opened, "run", ["a", "b"], budget=3).experts[0]
    # For a, whose every token goes there, S is 3 / 1.4; b has 400 decisions there, and S = 1.2 / 1.4.
    assert (item.layer, item.expert) == (0, 1)
    first = next(
        item for item in rise(opened, "run", ["a", "b"], budget=13).experts if (item.layer, item.expert) == (0, 0)
    )
    assert first.specificity == pytest.approx(1.2 / 1.4)
    alone = select(opened, "run", ["a", "b"], budget=13).experts[0]
    assert (alone.expert, alone.specificity) == (0, pytest.approx(3 / 1.4))


def test_shrinkage_adds_decisions_at_the_mean(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    rows = {"a": np.array([[3, 97]]), "b": np.array([[100, 900]])}
    opened = connect(write_counts(tmp_path, record, rows, {"a": 100, "b": 1000}))
    # mean a of expert 0 is 0.065: 6.5 of the 100 tokens
    for shrinkage, expected in ((0, 3 / 6.5), (4, 7 / 10.5), (1e12, 1)):
        found = select(opened, "run", ["a"], budget=2, shrinkage=shrinkage)
        assert found.experts[0].specificity == pytest.approx(expected, rel=1e-9)
        assert found.parameters["shrinkage"] == shrinkage


def test_a_budget_is_shared_out_by_decimal_fractions(tmp_path: Path) -> None:
    world = make_world(3, make_record(moe_layers=range(16), num_experts=20))
    selection = select(connect(write_world(tmp_path, world)), "run", ["swh_Latn"], budget=180)
    zones = [item.zone for item in selection.experts]
    # In binary 180 x 0.35 may fall short of 63.
    assert {zone: zones.count(zone) for zone in zones} == {"shallow": 63, "middle": 45, "deep": 72}


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """A model whose middle zone has no layers."""
    return connect(write_world(tmp_path_factory.mktemp("two"), make_world(1, make_record(moe_layers=[0, 3]))))


@given(st.integers(1, 16), st.integers(0, 100), st.integers(0, 100))
@examples(50)
def test_any_budget_and_shares_are_met_to_the_expert(
    two_layers: duckdb.DuckDBPyConnection, budget: int, shallow: int, middle: int
) -> None:
    middle = min(middle, 100 - shallow)
    selection = select(two_layers, "run", ["swh_Latn"], budget=budget, shallow=shallow / 100, middle=middle / 100)
    assert selection.zones["middle"] == ()
    assert len({(item.layer, item.expert) for item in selection.experts}) == budget
    of_shallow = sum(item.zone == "shallow" for item in selection.experts)
    if of_shallow < 8 and budget - of_shallow < 8:
        assert of_shallow >= budget * shallow // 100
        assert budget - of_shallow >= budget - budget * shallow // 100 - budget * middle // 100


def test_equal_scores_go_to_the_lower_layer_then_the_lower_expert(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=range(8), num_experts=4, top_k=2, tables=["usage"])
    even = np.full((8, 4), 5)
    opened = connect(write_counts(tmp_path, record, {"a": even, "b": even}, {"a": 10, "b": 10}))
    selection = select(opened, "run", ["a"], budget=9)
    assert [(item.layer, item.expert) for item in selection.experts] == [
        *((0, 0), (0, 1), (0, 2)),
        *((3, 0), (3, 1)),
        *((5, 0), (5, 1), (5, 2), (5, 3)),
    ]


def test_shallow_and_deep_experts_are_specific_and_middle_ones_shared(opened: duckdb.DuckDBPyConnection) -> None:
    selection = select(opened, "run", ["swh_Latn"], budget=12)
    assert {(item.zone, item.role) for item in selection.experts} == {
        ("shallow", "specific"),
        ("middle", "shared"),
        ("deep", "specific"),
    }
    assert all(item.specificity is not None and item.overlap is not None for item in selection.experts)
    assert selection.zones == {"shallow": (1,), "middle": (2,), "deep": (5,)}


def test_an_expert_that_nobody_uses_is_selected_last(tmp_path: Path) -> None:
    world = make_world(4, make_record(num_experts=6, top_k=1), unused_experts=2)
    selected = select(connect(write_world(tmp_path, world)), "run", ["eng_Latn"], budget=12).experts
    assert all(item.score == 0 for item in selected if item.expert >= 4)
    middle = [item.expert for item in selected if item.zone == "middle"]
    assert 4 not in middle or len(middle) > 4


def test_reference_languages_are_compared_with_the_target_and_no_others(opened: duckdb.DuckDBPyConnection) -> None:
    two = select(opened, "run", ["swh_Latn"], reference=["eng_Latn"], budget=24)
    assert two.languages == ("eng_Latn", "swh_Latn")
    scores = dict(
        opened.sql(
            """
            select (layer, expert), specificity
            from specificity(languages := ['eng_Latn', 'swh_Latn'])
            where lang = 'swh_Latn'
            """
        ).fetchall()
    )
    assert {(item.layer, item.expert): item.specificity for item in two.experts} == pytest.approx(scores)
    everyone = select(opened, "run", ["swh_Latn"], budget=24)
    assert everyone.languages == LANGUAGES
    assert everyone.experts != two.experts


def test_several_targets_compete_with_their_best_scores(opened: duckdb.DuckDBPyConnection) -> None:
    both = select(opened, "run", ["swh_Latn", "deu_Latn"], budget=24)
    alone = [select(opened, "run", [lang], budget=24).experts for lang in both.targets]
    assert both.targets == ("swh_Latn", "deu_Latn")
    for item, *others in zip(both.experts, *alone, strict=True):
        if item.zone != "middle":
            assert item.score == pytest.approx(max(other.score for other in others))


def test_tokens_are_those_of_the_compared_languages(tmp_path: Path) -> None:
    world = make_world(5)
    tokens = reference.routing(world).tokens
    selection = select(connect(write_world(tmp_path, world)), "run", ["swh_Latn"], reference=["deu_Latn"], budget=3)
    assert selection.tokens == tokens["swh_Latn"] + tokens["deu_Latn"]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"run": "runn"}, UnknownNameError, "the store has no run 'runn'; did you mean run"),
        ({"targets": ["swh"]}, UnknownNameError, "run 'run' has no language 'swh'; did you mean swh_Latn"),
        ({"reference": ["eng"]}, UnknownNameError, "no language 'eng'; did you mean eng_Latn"),
        ({"targets": []}, SelectionError, "name it with --target"),
        ({"budget": 0}, SelectionError, "budget 0: run 'run' has 24 experts"),
        ({"budget": 25}, SelectionError, "budget 25: run 'run' has 24 experts"),
        ({"reference": ["swh_Latn"]}, SelectionError, "swh_Latn is the only one"),
        ({"shallow": 0.8}, SelectionError, "zone shares 0.8 and 0.25"),
        ({"min_count": -1}, SelectionError, "min-count -1: pass 0 or more"),
        ({"min_count": 10**6}, SelectionError, "budget 3, of which 1 in the shallow zone: only 0 of its 8 experts"),
        ({"shrinkage": -0.5}, SelectionError, "shrinkage -0.5: pass 0 or more"),
        ({"shrinkage": float("nan")}, SelectionError, "shrinkage nan: pass a finite number"),
    ],
)
def test_what_cannot_be_selected_is_a_one_line_error(
    changed: dict[str, object], error: type[MoetraceError], message: str, opened: duckdb.DuckDBPyConnection
) -> None:
    asked = {"run": "run", "targets": ["swh_Latn"], "budget": 3, **changed}
    with pytest.raises(error, match=message) as raised:
        select(opened, asked.pop("run"), asked.pop("targets"), **asked)
    assert "\n" not in str(raised.value)


def test_a_run_with_one_language_has_nothing_to_compare(tmp_path: Path) -> None:
    opened = connect(write_world(tmp_path, make_world(6, make_record(languages=["eng_Latn"]))))
    with pytest.raises(SelectionError, match="eng_Latn is the only one"):
        select(opened, "run", ["eng_Latn"], budget=1)


def test_a_run_without_usage_cannot_be_selected_from(tmp_path: Path) -> None:
    record = make_record(tables=["sequences", "tokens", "routes"])
    opened = connect(write_world(tmp_path, make_world(7, record)))
    with pytest.raises(SelectionError, match="run 'run' has no usage"):
        select(opened, "run", ["eng_Latn"], budget=1)
