"""Activation and divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from tests.support.stores import make_record, make_world, write_counts
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path


def test_activation_sums_to_top_k_and_shares_sum_to_one(tmp_path: Path) -> None:
    world = make_world(8)
    summed = metrics.activation(open_worlds(tmp_path, [world])).drop("run", "expert").group_by("lang", "layer").sum()
    assert summed["frequency"].to_list() == pytest.approx([world.record.top_k] * len(summed))
    for column in ("share", "weight_share", "probability"):
        assert summed[column].to_list() == pytest.approx([1.0] * len(summed), abs=1e-6)


def test_shares_sum_to_one_where_counts_miss_tokens_times_top_k(tmp_path: Path) -> None:
    """As those of recorders that add up in bf16 do."""
    counts = {"a": np.array([[3000, 2500, 2501, 2000]])}
    record = make_record(languages=["a"], moe_layers=[0], num_experts=4, top_k=2, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, {"a": 5000}))
    found = metrics.activation(opened)
    assert found["share"].to_list() == pytest.approx((counts["a"][0] / 10001).tolist(), rel=1e-15)
    assert found["frequency"].to_list() == pytest.approx((counts["a"][0] / 5000).tolist(), rel=1e-15)
    p = counts["a"][0] / 10001
    assert metrics.routing_entropy(opened)["entropy"].item() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)


def test_perfectly_even_routing_neither_diverges_nor_divides_by_zero(tmp_path: Path) -> None:
    even = np.full((1, 8), 5)
    record = make_record(languages=["a", "b"], moe_layers=[0], num_experts=8, top_k=2, tables=["usage"])
    row = metrics.divergence(connect(write_counts(tmp_path, record, {"a": even, "b": even}, {"a": 20, "b": 20})))
    assert row["jsd"].item() == pytest.approx(0, abs=1e-15)
    assert row["jsd_normalized"].item() == 0
