"""What a shard adds up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.support.shards import EXPERTS, LAYERS, TOP_K, random_shard, record_with, rows_of

if TYPE_CHECKING:
    from pathlib import Path


def test_roll_ups_equal_a_recount(tmp_path: Path) -> None:
    shard = random_shard(3, (5, 2, 9, 1))
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
    both = usage.join(recount, on=("layer", "expert"), how="left", suffix="_again").fill_null(0)
    assert both["count"].to_list() == both["count_again"].to_list()
    for name in ("weight_sum", "sequence_share_sum"):
        assert np.allclose(both[name], both[f"{name}_again"], rtol=1e-12, atol=1e-12)
    profiles = rows_of(opened, "profiles").join(rows_of(opened, "sequences"), on="seq")
    means = profiles.group_by("layer", "expert").agg(
        sequence_probability_sum=pl.col("probability").cast(pl.Float64).sum(),
        probability_sum=(pl.col("probability").cast(pl.Float64) * pl.col("tokens")).sum(),
    )
    both = usage.join(means, on=("layer", "expert"), suffix="_again")
    for name in ("probability_sum", "sequence_probability_sum"):
        assert np.allclose(both[name], both[f"{name}_again"], rtol=1e-9)
