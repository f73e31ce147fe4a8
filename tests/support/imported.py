"""Imports held against what was published: single decisions, and the overlaps of MGSM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.store.read.reader import Store

if TYPE_CHECKING:
    from pathlib import Path

DECISION = {"layer": pl.UInt16, "seq": pl.Int32, "position": pl.Int32, "expert": pl.UInt8, "weight": pl.Float32}


PLACE = ("layer", "seq", "position", "expert")


def stored_decisions(store: Path, lang: str) -> pl.DataFrame:
    routes, tokens = (
        pl.concat(
            pl.read_parquet(file.location, hive_partitioning=False).with_columns(shard=file.shard)
            for file in Store(store).files(name)
            if file.lang == lang
        )
        for name in ("routes", "tokens")
    )
    return routes.join(tokens, on=("shard", "token")).select(DECISION.keys()).sort(PLACE)


def published_decisions(folder: Path, top_k: int) -> pl.DataFrame:
    """Read a task's text files as their README says, in nothing but Python."""
    found: dict[str, list[float]] = {name: [] for name in DECISION}
    for path in folder.glob("expert_weights_*.txt"):
        for seq, line in enumerate(path.read_text().splitlines()):
            ids, weights = (part.split("\t") for part in line.split("\t\t"))
            assert len(ids) == len(weights)
            found["layer"] += [int(path.stem.rpartition("_")[2])] * len(ids)
            found["seq"] += [seq] * len(ids)
            found["position"] += [index // top_k for index in range(len(ids))]
            found["expert"] += map(int, ids)
            found["weight"] += map(float, weights)
    return pl.DataFrame(found, schema=DECISION).sort(PLACE)


def check_overlaps_of_mgsm(store: Path) -> None:
    """Compare the mean overlap of the sets of eight experts with what the counts were published to show."""
    pairs = metrics.jaccard_by_pair(connect(store))
    assert set(pairs["layers"]) == {48}
    for lang_a, lang_b, mean in (("bn", "en", 0.212), ("en", "sw", 0.144), ("en", "es", 0.514)):
        found = pairs.filter(lang_a=lang_a, lang_b=lang_b, n=8)["jaccard"].item()
        assert found == pytest.approx(mean, abs=5e-4)
