"""Metrics of single experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from pathlib import Path


def test_specificity_to_languages_that_never_use_the_expert_is_finite(tmp_path: Path) -> None:
    counts = {"a": np.array([[10, 0]]), "b": np.array([[0, 10]]), "c": np.array([[0, 10]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, dict.fromkeys(counts, 10)))
    found = metrics.specificity(opened, languages=["b", "c"]).filter(lang="a")
    assert found["specificity"].to_list() == [1 / 1e-8, 0]
