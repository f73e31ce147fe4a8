"""Roll-ups of a shard, from memory: what `usage` holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moetrace.store.format.schema import usage
from moetrace.store.shard.text_counts import TextCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.store.format.records import RunRecord
    from moetrace.store.shard.shard import Shard
    from moetrace.store.shard.text_counts import Sums


class UsageRollup:
    """Adds up one layer after another; every sum is float64, every count int64."""

    def __init__(self, shard: Shard, record: RunRecord) -> None:
        self._record = record
        self._profiles = shard.profiles
        self._lengths = shard.lengths.astype(np.float64)
        self._counts = TextCounts(shard.lengths, record.top_k, record.num_experts)
        self._layers: list[Sums] = []

    def add_layer(self, experts: npt.NDArray[np.unsignedinteger], weights: npt.NDArray[np.float32]) -> None:
        """Add the next MoE layer: experts and (rounded) weights, [k, T], text after text, ranks in any order."""
        columns = self._counts.add_up(experts, weights)
        if self._profiles is not None:
            profiles = self._profiles[len(self._layers)].astype(np.float64)
            columns["sequence_probability_sum"] = profiles.sum(axis=0)
            profiles *= self._lengths[:, None]  # not a matrix product: BLAS would wake threads that the model needs
            columns["probability_sum"] = profiles.sum(axis=0)
        self._layers.append(columns)

    def table(self) -> Iterator[pa.Table]:
        """Yield the finished roll-up as one Arrow table in the schema of `usage`."""
        size, layers = self._record.num_experts, self._record.moe_layers
        schema = usage(size).schema
        columns: list[pa.Array] = [
            pa.array(np.repeat(np.asarray(layers), size), schema.field("layer").type),
            pa.array(np.tile(np.arange(size), len(layers)), schema.field("expert").type),
        ]
        for name in schema.names[2:]:
            if name in self._layers[0]:
                columns.append(
                    pa.array(np.concatenate([layer[name] for layer in self._layers]), schema.field(name).type)
                )
            else:
                columns.append(pa.nulls(size * len(layers), schema.field(name).type))
        yield pa.Table.from_arrays(columns, schema=schema)
