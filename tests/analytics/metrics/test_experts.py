"""Metrics of single experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.store.errors import MoetraceError
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from pathlib import Path


def test_specificity_to_languages_that_never_use_the_expert_is_finite(tmp_path: Path) -> None:
    counts = {"a": np.array([[10, 0]]), "b": np.array([[0, 10]]), "c": np.array([[0, 10]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, dict.fromkeys(counts, 10)))
    found = metrics.specificity(opened, languages=["b", "c"]).filter(lang="a")
    assert found["specificity"].to_list() == [1 / 1e-8, 0]


def test_shrinkage_draws_experts_with_few_decisions_to_one(tmp_path: Path) -> None:
    """One decision of a language that is all there is, and a thousand of them: only the first is mostly chance."""
    counts = {"a": np.array([[1, 1000, 999]]), "b": np.array([[0, 0, 2000]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=3, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, dict.fromkeys(counts, 2000)))
    for shrinkage, expected in ((0, [2.0, 2.0]), (30, [31 / 30.5, 1030 / 530])):
        found = metrics.specificity(opened, shrinkage=shrinkage).filter(lang="a")
        assert found["specificity"].to_list()[:2] == pytest.approx(expected)
        assert found["count"].to_list() == [1, 1000, 999]
    unused = metrics.specificity(opened, shrinkage=5, languages=["b"]).filter(lang="a")
    assert unused["specificity"].to_list()[:2] == pytest.approx([6 / 5, 1005 / 5])
    with pytest.raises(MoetraceError, match="shrinkage = -1: it is a number of decisions, from 0"):
        metrics.specificity(opened, shrinkage=-1)


def test_each_expert_has_the_count_that_its_row_is_about(tmp_path: Path) -> None:
    counts = {"a": np.array([[6, 2, 2]]), "b": np.array([[0, 18, 2]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=3, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, {"a": 10, "b": 20}))
    assert metrics.overlap(opened)["count"].to_list() == [6, 20, 4]
    assert metrics.overlap(opened, languages=["a"])["count"].to_list() == [6, 2, 2]
    gaps = metrics.activation_gap(opened).select("lang", "count").rows()
    assert gaps == [("a", 6), ("b", 18), ("a", 2)]
    assert metrics.activation_gap(opened, languages=["a"]).select("lang", "count").rows() == [(None, None)] * 3
    exclusive = metrics.exclusive_experts(opened, threshold=0.6).select("lang", "expert", "count").rows()
    assert exclusive == [("a", 0, 6), ("a", 2, 2), ("b", 1, 18)]
