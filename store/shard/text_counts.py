"""Counting the decisions of a layer by text and expert, and what is added up of such counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_BINS = 1 << 15  # texts x experts that are counted at a time: what a core's cache holds
BLOCK_DECISIONS = 1 << 18  # that are sorted at a time
MOST_BINS = 48  # of a decision: with more, because texts are short and experts many, sorting is faster

Sums = dict[str, npt.NDArray[Any]]


class TextCounts:
    """Counts one layer after another; every sum is float64, every count int64.

    Some texts at a time: what a text has of an expert is squared before it is added up, so that a variance over texts
    can be told from sums. Arrays are used again for every block: `bincount` would convert ids and weights to fresh ones
    each time. Counts are bins of texts x experts or, where most of these would be empty, runs of sorted decisions.
    """

    def __init__(self, lengths: npt.NDArray[np.integer], top_k: int, num_experts: int) -> None:
        """Prepare for layers of `num_experts` experts, for texts of `lengths` tokens in the order of the texts."""
        self._experts = num_experts
        self._decisions = lengths.astype(np.float64) * top_k
        total, bins = int(self._decisions.sum()), len(lengths) * num_experts
        self._sorts = bins > MOST_BINS * total
        together = BLOCK_DECISIONS * len(lengths) // total if self._sorts else BLOCK_BINS // num_experts
        self._blocks = _blocks(lengths, num_experts, max(1, together))
        rows = max(len(block.first_bin) for block in self._blocks) * top_k
        self._bin, self._weights = np.empty(rows, dtype=np.intp), np.empty(rows, dtype=np.float64)
        cells = 0 if self._sorts else max(block.texts for block in self._blocks) * num_experts
        self._counts = np.empty(cells, dtype=np.float64)

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
        return {**found, **(self._of_runs(flat, decisions) if self._sorts else self._of_bins(flat, decisions))}

    def _of_bins(self, flat: npt.NDArray[np.intp], decisions: npt.NDArray[np.float64]) -> Sums:
        """Return the sums of counts in a bin for each text and expert; flat: the bin of each decision."""
        shape = (len(decisions), self._experts)
        by_text = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        counts = self._counts[: by_text.size].reshape(shape)
        np.copyto(counts, by_text)  # exact: a text has far fewer than 2^53 tokens
        return {
            "count": by_text.sum(axis=0),
            "sequence_share_sum": np.einsum("se,s->e", counts, 1.0 / decisions),
            "count_squared_sum": np.einsum("se,se->e", counts, counts),
            "count_decisions_sum": np.einsum("se,s->e", counts, decisions),
        }

    def _of_runs(self, flat: npt.NDArray[np.intp], decisions: npt.NDArray[np.float64]) -> Sums:
        """Return the same sums, of the bins that are not empty; sorts `flat`."""
        flat.sort()
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        counts = np.diff(starts, append=len(flat))
        text, expert = np.divmod(flat[starts], self._experts)
        of_text = decisions[text]

        def by_expert(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.bincount(expert, weights=values, minlength=self._experts)

        return {
            "count": by_expert(counts).astype(np.int64),
            "sequence_share_sum": by_expert(counts / of_text),
            "count_squared_sum": by_expert(counts * counts),
            "count_decisions_sum": by_expert(counts * of_text),
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


def _blocks(lengths: npt.NDArray[np.integer], num_experts: int, together: int) -> list[_Block]:
    """Cut texts of `lengths` tokens into blocks of so many texts; no texts are one block of none."""
    ends = np.cumsum([0, *lengths], dtype=np.int64)
    found, begin = [], 0
    for start in range(0, max(1, len(lengths)), together):
        part = lengths[start : start + together]
        stop, end = start + len(part), int(ends[start + len(part)])
        first_bin = np.repeat(np.arange(len(part), dtype=np.intp) * num_experts, part)
        found.append(_Block(slice(start, stop), slice(begin, end), first_bin))
        begin = end
    return found
