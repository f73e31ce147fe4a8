"""Roll-ups of a shard, from memory: what `usage` holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.schema import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.records import RunRecord
    from store.shard import Shard


class UsageRollup:
    """Adds up one layer after another; every sum is float64, every count int64.

    Its arrays are used again for every layer: `bincount` would convert ids and weights to fresh ones each time.
    """

    def __init__(self, shard: Shard, record: RunRecord) -> None:
        self._record = record
        self._profiles = shard.profiles
        self._lengths = shard.lengths.astype(np.float64)
        token_share = np.repeat(1.0 / (self._lengths * record.top_k), shard.lengths)
        self._share = np.tile(token_share, record.top_k)
        self._experts = np.empty(len(self._share), dtype=np.intp)
        self._weights = np.empty(len(self._share), dtype=np.float64)
        self._layers: list[dict[str, npt.NDArray[np.generic]]] = []

    def add_layer(self, experts: npt.NDArray[np.unsignedinteger], weights: npt.NDArray[np.float32]) -> None:
        """Add the next MoE layer: experts and (rounded) weights, [k, T] in the order of the texts, ranks in any order.

        In that order equal experts seldom stand together: adding to one bin again and again waits for itself.
        """
        size, index = self._record.num_experts, len(self._layers)
        np.copyto(self._experts.reshape(experts.shape), experts)
        np.copyto(self._weights.reshape(weights.shape), weights)
        columns: dict[str, npt.NDArray[np.generic]] = {
            "count": np.bincount(self._experts, minlength=size),
            "weight_sum": np.bincount(self._experts, weights=self._weights, minlength=size),
            "sequence_share_sum": np.bincount(self._experts, weights=self._share, minlength=size),
        }
        if self._profiles is not None:
            profiles = self._profiles[:, index].astype(np.float64)
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
