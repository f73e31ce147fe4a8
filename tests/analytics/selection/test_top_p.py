"""Selecting until scores sum to p, against the reference."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import top_p
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.examples import examples
from tests.support.selections import LANGUAGES
from tests.support.stores import World, make_record, write_counts

if TYPE_CHECKING:
    import duckdb


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
