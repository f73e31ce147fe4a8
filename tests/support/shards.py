"""Random shards of one language, the record of their run, and the rows of what was written of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.shard.shard import Shard
from tests.support.stores import make_record

if TYPE_CHECKING:
    from moetrace.store.format.records import RunRecord
    from moetrace.store.read.reader import Store

LAYERS, EXPERTS, TOP_K = 3, 8, 2


def random_shard(
    seed: int = 0, lengths: tuple[int, ...] = (4, 1, 7), experts: int = EXPERTS, top_k: int = TOP_K
) -> Shard:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    logits = rng.normal(size=(total, LAYERS, experts)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argpartition(-probabilities, top_k - 1, axis=-1)[..., :top_k]
    weights = np.take_along_axis(probabilities, chosen, -1)
    sums = np.add.reduceat(probabilities, np.cumsum(lengths) - lengths)
    return Shard(
        lang="eng_Latn",
        number=0,
        seqs=np.arange(len(lengths), dtype=np.int32),
        text_ids=[f"t{i}" for i in range(len(lengths))],
        lengths=np.array(lengths, dtype=np.int32),
        truncated=np.zeros(len(lengths), dtype=bool),
        token_ids=rng.integers(0, 9, total).astype(np.int32),
        experts=chosen.astype(expert_dtype(experts)).transpose(1, 2, 0),
        weights=(weights / weights.sum(-1, keepdims=True)).astype(np.float32).transpose(1, 2, 0),
        profiles=(sums / np.array(lengths)[:, None, None]).astype(np.float32).transpose(1, 0, 2),
    )


def record_with(**settings: Any) -> RunRecord:
    record = make_record(languages=("eng_Latn",))
    return replace(record, settings={**record.settings, **settings})


def rows_of(store: Store, name: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file.location, hive_partitioning=False) for file in store.files(name)])
