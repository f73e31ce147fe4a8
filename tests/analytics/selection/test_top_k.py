"""Selecting the most used experts, against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.selection import top_k
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
        found = top_k(opened, "run", targets, budget=budget)
        assert len(found.experts) == budget
        assert cells(found) == sorted(reference_selections.top_k(data, targets or LANGUAGES, budget))
    for number in range(1, 9):
        found = top_k(opened, "run", targets, per_layer=number)
        expected = reference_selections.top_k(data, targets or LANGUAGES, number, per_layer=True)
        assert cells(found) == sorted(expected)
