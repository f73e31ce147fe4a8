"""Roll-ups of a shard, from memory: what `usage` holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moetrace.store.format.schema import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.store.format.records import RunRecord
    from moetrace.store.shard.shard import Shard


class UsageRollup:
    """Adds up one layer after another; every sum is float64, every count int64.

    Decisions are counted by expert and length of text, of which a shard of T tokens has at most sqrt(2 T) different
    ones: counts and shares of texts then come from one pass. Arrays are used again for every layer: `bincount` would
    convert ids and weights to fresh ones each time.
    """

    def __init__(self, shard: Shard, record: RunRecord) -> None:
        self._record = record
        self._profiles = shard.profiles
        self._lengths = shard.lengths.astype(np.float64)
        kinds, kind = np.unique(shard.lengths, return_inverse=True)
        self._text_share = 1.0 / (kinds * float(record.top_k))
        self._bins = (len(kinds), record.num_experts)
        self._first_bin = np.repeat(kind.astype(np.intp) * record.num_experts, shard.lengths)
        self._bin = np.empty((record.top_k, shard.tokens), dtype=np.intp)
        self._weights = np.empty((record.top_k, shard.tokens), dtype=np.float64)
        self._layers: list[dict[str, npt.NDArray[np.generic]]] = []

    def add_layer(self, experts: npt.NDArray[np.unsignedinteger], weights: npt.NDArray[np.float32]) -> None:
        """Add the next MoE layer: experts and (rounded) weights, [k, T] in the order of the texts, ranks in any order.

        In that order equal experts seldom stand together: adding to one bin again and again waits for itself.
        """
        size, index = self._bins[0] * self._bins[1], len(self._layers)
        np.add(self._first_bin, experts, out=self._bin)
        np.copyto(self._weights, weights)
        flat = self._bin.ravel()
        counts = np.bincount(flat, minlength=size).reshape(self._bins)
        weight_sums = np.bincount(flat, weights=self._weights.ravel(), minlength=size).reshape(self._bins)
        columns: dict[str, npt.NDArray[np.generic]] = {
            "count": counts.sum(axis=0),
            "weight_sum": weight_sums.sum(axis=0),
            "sequence_share_sum": (counts * self._text_share[:, None]).sum(axis=0),
        }
        if self._profiles is not None:
            profiles = self._profiles[index].astype(np.float64)
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
