"""Selecting the most used experts, against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.selection import top_k
from moetrace.analytics.selection.selection import SelectionError
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.selections import LANGUAGES, cells

if TYPE_CHECKING:
    import duckdb

    from tests.support.stores import World


@pytest.mark.parametrize("targets", [[], ["swh_Latn"], ["eng_Latn", "deu_Latn"]])
def test_top_k_selects_what_the_reference_selects_for_every_budget(
    targets: list[str], opened: duckdb.DuckDBPyConnection, world: World
) -> None:
    data = reference.routing(world)
    for budget in range(1, 65):
        found = top_k(opened, "run", targets, budget=budget, min_count=0)
        assert len(found.experts) == budget
        assert cells(found) == sorted(reference_selections.top_k(data, targets or LANGUAGES, budget))
    for number in range(1, 9):
        found = top_k(opened, "run", targets, per_layer=number, min_count=0)
        expected = reference_selections.top_k(data, targets or LANGUAGES, number, per_layer=True)
        assert cells(found) == sorted(expected)


@pytest.mark.parametrize("targets", [[], ["swh_Latn"], ["eng_Latn", "deu_Latn"]])
@pytest.mark.parametrize("min_count", [1, 10, 25])
def test_an_expert_with_few_decisions_is_no_candidate(
    targets: list[str], min_count: int, opened: duckdb.DuckDBPyConnection, world: World
) -> None:
    data, languages = reference.routing(world), targets or LANGUAGES
    expected = reference_selections.top_k(data, languages, 64, min_count=min_count)
    assert 0 < len(expected) < 64
    found = top_k(opened, "run", targets, budget=len(expected), min_count=min_count)
    assert cells(found) == sorted(expected)
    assert min(item.count for item in found.experts) >= min_count
    assert found.missed == ()
    with pytest.raises(SelectionError, match=rf"only {len(expected)} of the 64 .* {min_count} routing decisions"):
        top_k(opened, "run", targets, budget=len(expected) + 1, min_count=min_count)


def test_each_layer_must_have_enough_candidates(opened: duckdb.DuckDBPyConnection, world: World) -> None:
    count = reference.routing(world).count["swh_Latn"]
    least = int(np.sort(count, axis=1)[:, -3].min())  # the third of the layer whose third has the fewest
    found = top_k(opened, "run", ["swh_Latn"], per_layer=3, min_count=least)
    assert len(found.experts) == 24
    with pytest.raises(
        SelectionError, match=r"^per-layer 3: only [12] of the 8 experts of layer .* lower --per-layer$"
    ):
        top_k(opened, "run", ["swh_Latn"], per_layer=3, min_count=least + 1)
