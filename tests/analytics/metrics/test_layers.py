"""Zones, and how much layers tell languages apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from pathlib import Path


def test_zones_are_cut_where_the_divergence_changes(tmp_path: Path) -> None:
    apart, half, alike = ([12, 0], [0, 12]), ([9, 3], [3, 9]), ([6, 6], [6, 6])
    curve = [apart, apart, alike, alike, alike, half]
    counts = {lang: np.array([layer[number] for layer in curve]) for number, lang in enumerate("ab")}
    for run, layers in (("all", 6), ("two", 2), ("one", 1), ("alike", 0)):
        record = make_record(
            run, "ab", moe_layers=range(3, 3 + (layers or 4)), num_experts=2, top_k=1, tables=["usage"]
        )
        shown = {lang: count[:layers] if layers else np.array([[6, 6]] * 4) for lang, count in counts.items()}
        store = write_counts(tmp_path, record, shown, {"a": 12, "b": 12})
    found = metrics.zones_auto(connect(store)).group_by("run").agg("zone")
    assert dict(found.rows()) == {
        "all": ["shallow"] * 2 + ["middle"] * 3 + ["deep"],
        "two": ["shallow", "middle"],
        "one": ["shallow"],
        "alike": ["shallow", "middle", "deep", "deep"],
    }


def test_a_balanced_specialization_does_not_depend_on_how_much_was_traced(tmp_path: Path) -> None:
    few = {"a": np.array([[8, 4, 0]]), "b": np.array([[3, 6, 3]])}
    record = make_record("even", "ab", moe_layers=[0], num_experts=3, top_k=1, tables=["usage"])
    write_counts(tmp_path, record, few, {"a": 12, "b": 12})
    much = {"a": few["a"], "b": 50 * few["b"]}
    record = make_record("uneven", "ab", moe_layers=[0], num_experts=3, top_k=1, tables=["usage"])
    store = write_counts(tmp_path, record, much, {"a": 12, "b": 600})
    even, uneven = metrics.language_specialization(connect(store)).sort("run").to_dicts()
    assert even["balanced"] == pytest.approx(even["specialization"])
    assert uneven["balanced"] == pytest.approx(even["balanced"])
    assert abs(uneven["specialization"] - even["specialization"]) > 0.01
