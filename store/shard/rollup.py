"""Roll-ups of a shard, from memory: what `usage` holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moetrace.store.format.schema import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.store.format.records import RunRecord
    from moetrace.store.shard.shard import Shard


BLOCK_BINS = 1 << 15  # texts x experts that are counted at a time: what a core's cache holds


class UsageRollup:
    """Adds up one layer after another; every sum is float64, every count int64.

    Decisions are counted by text and expert, some texts at a time: what a text has of an expert is squared before it is
    added up, so that a variance over texts can be told from sums. Arrays are used again for every block: `bincount`
    would convert ids and weights to fresh ones each time.
    """

    def __init__(self, shard: Shard, record: RunRecord) -> None:
        self._record = record
        self._profiles = shard.profiles
        self._lengths = shard.lengths.astype(np.float64)
        self._decisions = self._lengths * record.top_k
        self._blocks = _blocks(shard.lengths, record.num_experts)
        rows = max(len(block.first_bin) for block in self._blocks) * record.top_k
        self._bin, self._weights = np.empty(rows, dtype=np.intp), np.empty(rows, dtype=np.float64)
        self._counts = np.empty(max(block.texts for block in self._blocks) * record.num_experts, dtype=np.float64)
        self._layers: list[dict[str, npt.NDArray[np.generic]]] = []

    def add_layer(self, experts: npt.NDArray[np.unsignedinteger], weights: npt.NDArray[np.float32]) -> None:
        """Add the next MoE layer: experts and (rounded) weights, [k, T] in the order of the texts, ranks in any order.

        In that order equal experts seldom stand together: adding to one bin again and again waits for itself.
        """
        columns: dict[str, npt.NDArray[np.generic]] = {}
        for block in self._blocks:
            for name, sums in self._sums(block, experts[:, block.tokens], weights[:, block.tokens]).items():
                columns[name] = columns[name] + sums if name in columns else sums
        if self._profiles is not None:
            profiles = self._profiles[len(self._layers)].astype(np.float64)
            columns["sequence_probability_sum"] = profiles.sum(axis=0)
            profiles *= self._lengths[:, None]  # not a matrix product: BLAS would wake threads that the model needs
            columns["probability_sum"] = profiles.sum(axis=0)
        self._layers.append(columns)

    def _sums(
        self, block: _Block, experts: npt.NDArray[np.unsignedinteger], weights: npt.NDArray[np.float32]
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Return what the decisions of some texts, [k, tokens], add up to, each [E]."""
        size, decisions = self._record.num_experts, self._decisions[block.of_texts]
        flat, flat_weights = self._bin[: experts.size], self._weights[: weights.size]
        np.copyto(flat.reshape(experts.shape), experts)
        np.copyto(flat_weights.reshape(weights.shape), weights)
        weight_sum = np.bincount(flat, weights=flat_weights, minlength=size)
        by_rank = flat.reshape(experts.shape)
        by_rank += block.first_bin
        by_text = np.bincount(flat, minlength=block.texts * size).reshape(block.texts, size)
        counts = self._counts[: by_text.size].reshape(by_text.shape)
        np.copyto(counts, by_text)  # exact: a text has far fewer than 2^53 tokens
        return {
            "count": by_text.sum(axis=0),
            "weight_sum": weight_sum,
            "sequence_share_sum": np.einsum("se,s->e", counts, 1.0 / decisions),
            "count_squared_sum": np.einsum("se,se->e", counts, counts),
            "count_decisions_sum": np.einsum("se,s->e", counts, decisions),
        }

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


@dataclass(frozen=True)
class _Block:
    """Texts that are counted together: which, their tokens, and for each token the first bin of its text, intp."""

    of_texts: slice
    tokens: slice
    first_bin: npt.NDArray[np.intp]

    @property
    def texts(self) -> int:
        """Return how many texts it has."""
        return int(self.of_texts.stop - self.of_texts.start)


def _blocks(lengths: npt.NDArray[np.int32], experts: int) -> list[_Block]:
    """Cut texts of `lengths` tokens into blocks of at most BLOCK_BINS bins, one text at least."""
    together, ends = max(1, BLOCK_BINS // experts), np.cumsum(lengths, dtype=np.int64)
    found, begin = [], 0
    for start in range(0, len(lengths), together):
        part = lengths[start : start + together]
        stop, end = start + len(part), int(ends[start + len(part) - 1])
        first_bin = np.repeat(np.arange(len(part), dtype=np.intp) * experts, part)
        found.append(_Block(slice(start, stop), slice(begin, end), first_bin))
        begin = end
    return found
