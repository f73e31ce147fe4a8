"""Counting the decisions of a layer by text and expert, and what is added up of such counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_BINS = 1 << 15  # texts x experts that are counted at a time: what a core's cache holds

Sums = dict[str, npt.NDArray[Any]]


class TextCounts:
    """Counts one layer after another; every sum is float64, every count int64.

    Some texts at a time: what a text has of an expert is squared before it is added up, so that a variance over texts
    can be told from sums. Arrays are used again for every block: `bincount` would convert ids and weights to fresh ones
    each time.
    """

    def __init__(self, lengths: npt.NDArray[np.integer], top_k: int, num_experts: int) -> None:
        """Prepare for layers of `num_experts` experts, for texts of `lengths` tokens in the order of the texts."""
        self._experts = num_experts
        self._decisions = lengths.astype(np.float64) * top_k
        self._blocks = _blocks(lengths, num_experts)
        rows = max(len(block.first_bin) for block in self._blocks) * top_k
        self._bin, self._weights = np.empty(rows, dtype=np.intp), np.empty(rows, dtype=np.float64)
        self._counts = np.empty(max(block.texts for block in self._blocks) * num_experts, dtype=np.float64)

    def add_up(self, experts: npt.NDArray[np.unsignedinteger], weights: npt.NDArray[np.float32] | None = None) -> Sums:
        """Return what the decisions of a layer add up to, [E] each, named as in `usage`; weight_sum of `weights` only.

        experts and weights: [k, T], in the order of the texts, ranks in any order. In that order equal experts seldom
        stand together: adding to one bin again and again waits for itself.
        """
        added: Sums = {}
        for block in self._blocks:
            part = None if weights is None else weights[:, block.tokens]
            for name, sums in self._of_block(block, experts[:, block.tokens], part).items():
                added[name] = added[name] + sums if name in added else sums
        return added

    def _of_block(
        self, block: _Block, experts: npt.NDArray[np.unsignedinteger], weights: npt.NDArray[np.float32] | None
    ) -> Sums:
        size, decisions = self._experts, self._decisions[block.of_texts]
        flat = self._bin[: experts.size]
        by_rank = flat.reshape(experts.shape)
        np.copyto(by_rank, experts)
        found: Sums = {}
        if weights is not None:
            flat_weights = self._weights[: weights.size]
            np.copyto(flat_weights.reshape(weights.shape), weights)
            found["weight_sum"] = np.bincount(flat, weights=flat_weights, minlength=size)
        by_rank += block.first_bin
        by_text = np.bincount(flat, minlength=block.texts * size).reshape(block.texts, size)
        counts = self._counts[: by_text.size].reshape(by_text.shape)
        np.copyto(counts, by_text)  # exact: a text has far fewer than 2^53 tokens
        return {
            **found,
            "count": by_text.sum(axis=0),
            "sequence_share_sum": np.einsum("se,s->e", counts, 1.0 / decisions),
            "count_squared_sum": np.einsum("se,se->e", counts, counts),
            "count_decisions_sum": np.einsum("se,s->e", counts, decisions),
        }


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


def _blocks(lengths: npt.NDArray[np.integer], num_experts: int) -> list[_Block]:
    """Cut texts of `lengths` tokens into blocks of at most BLOCK_BINS bins, one text at least."""
    together, ends = max(1, BLOCK_BINS // num_experts), np.cumsum(lengths, dtype=np.int64)
    found, begin = [], 0
    for start in range(0, len(lengths), together):
        part = lengths[start : start + together]
        stop, end = start + len(part), int(ends[start + len(part) - 1])
        first_bin = np.repeat(np.arange(len(part), dtype=np.intp) * num_experts, part)
        found.append(_Block(slice(start, stop), slice(begin, end), first_bin))
        begin = end
    return found
