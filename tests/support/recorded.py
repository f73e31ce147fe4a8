"""What a recording holds of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.database.connection import connect

if TYPE_CHECKING:
    from pathlib import Path


def routing_of(store: Path, text_id: str) -> tuple[list[int], np.ndarray]:
    """Token ids of a recorded text, and its experts [T, L, k], ascending."""
    rows = (
        connect(store)
        .sql(
            f"""
        select position, layer, token_id, list(expert order by expert) as experts
        from routes join tokens using (run, lang, shard, token) join sequences using (run, lang, shard, seq)
        where text_id = '{text_id}' group by all order by position, layer
        """
        )
        .pl()
    )
    experts = np.array(rows["experts"].to_list()).reshape(rows["position"].n_unique(), -1, 4)
    return rows.filter(pl.col("layer") == 0)["token_id"].to_list(), experts
