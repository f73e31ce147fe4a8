"""What a shard adds up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from moetrace.store.read.reader import Store
from moetrace.store.shard import text_counts
from moetrace.store.write.writer import StoreWriter
from tests.support.shards import EXPERTS, LAYERS, TOP_K, random_shard, record_with, rows_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("bins", [1, 2 * EXPERTS, text_counts.BLOCK_BINS], ids=["text by text", "two", "all at once"])
@pytest.mark.parametrize("most", [text_counts.MOST_BINS, 0], ids=["bins", "sorted"])
def test_roll_ups_equal_a_recount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bins: int, most: int) -> None:
    monkeypatch.setattr(text_counts, "BLOCK_BINS", bins)
    monkeypatch.setattr(text_counts, "BLOCK_DECISIONS", bins)
    monkeypatch.setattr(text_counts, "MOST_BINS", most)
    shard = random_shard(3, (5, 2, 9, 1, 2, 7, 1))
    StoreWriter(tmp_path, record_with(weight_precision="f16")).write(shard)
    opened = Store(tmp_path)
    routes = (
        rows_of(opened, "routes")
        .join(rows_of(opened, "tokens"), on="token")
        .join(rows_of(opened, "sequences"), on="seq")
    )
    recount = routes.group_by("layer", "expert").agg(
        count=pl.len(),
        weight_sum=pl.col("weight").cast(pl.Float64).sum(),
        sequence_share_sum=(1 / (pl.col("tokens") * TOP_K)).sum(),
    )
    usage = rows_of(opened, "usage")
    assert len(usage) == LAYERS * EXPERTS
    by_text = routes.group_by("layer", "expert", "seq").agg(count=pl.len(), tokens=pl.col("tokens").first())
    moments = by_text.group_by("layer", "expert").agg(
        count_squared_sum=(pl.col("count") ** 2).sum(),
        count_decisions_sum=(pl.col("count") * pl.col("tokens") * TOP_K).sum(),
    )
    recount = recount.join(moments, on=("layer", "expert"))
    assert recount["count_squared_sum"].max() > recount["count"].max()  # a text has an expert more than once
    both = usage.join(recount, on=("layer", "expert"), how="left", suffix="_again").fill_null(0)
    assert both["count"].to_list() == both["count_again"].to_list()
    for name in ("weight_sum", "sequence_share_sum", "count_squared_sum", "count_decisions_sum"):
        assert np.allclose(both[name], both[f"{name}_again"], rtol=1e-12, atol=1e-12)
    profiles = rows_of(opened, "profiles").join(rows_of(opened, "sequences"), on="seq")
    means = profiles.group_by("layer", "expert").agg(
        sequence_probability_sum=pl.col("probability").cast(pl.Float64).sum(),
        probability_sum=(pl.col("probability").cast(pl.Float64) * pl.col("tokens")).sum(),
    )
    both = usage.join(means, on=("layer", "expert"), suffix="_again")
    for name in ("probability_sum", "sequence_probability_sum"):
        assert np.allclose(both[name], both[f"{name}_again"], rtol=1e-9)
