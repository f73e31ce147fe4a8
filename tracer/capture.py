"""Putting the rows of engine steps together into sequences and shards. NumPy only: knows neither vLLM nor Parquet.

A step computes some positions of some requests. Chunked prefill cuts a text over steps; preemption starts one again.
Whatever the schedule, each (text, position) must have been written exactly once when its shard is handed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_WRITTEN = -1


@dataclass(frozen=True)
class Rows:
    """The rows of one request in one step: positions start .. start + count of text `index` of a shard."""

    shard: str
    index: int
    start: int
    count: int


@dataclass(frozen=True)
class Step:
    """What the tap saw in one engine step of n tokens, over L MoE layers.

    - experts: int32 [L, n, k]; weights: float32 [L, n, k], as applied
    - probabilities: float32 [L, n, E], the full router probabilities, or None
    - token_ids: int32 [n]
    """

    experts: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int32]


@dataclass
class CapturedShard:
    """A shard whose every position was captured; shapes as in `store.Shard`."""

    key: str
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    profiles: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int32]


@dataclass
class _OpenShard:
    """Buffers of a shard under way, [L, k, T]: that is how routes are written."""

    lengths: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]
    remaining: int
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    profiles: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int32]
    # Of texts under way: the position after each chunk, and the chunk's probability sums [L, E].
    partial: dict[int, list[tuple[int, npt.NDArray[np.float32]]]] = field(default_factory=dict)


class ShardAssembler:
    """Collects steps into shards; a shard is handed over once, when its last position has been written."""

    def __init__(self, layers: Sequence[int], num_experts: int, top_k: int, *, profiles: bool) -> None:
        self._layers, self._num_experts, self._top_k, self._profiles = list(layers), num_experts, top_k, profiles
        self._open: dict[str, _OpenShard] = {}
        self._finished: list[CapturedShard] = []

    def open(self, key: str, lengths: Sequence[int]) -> None:
        """Announce a shard and the number of tokens of each of its texts, before any of them runs."""
        sizes = np.asarray(lengths, dtype=np.int64)
        total, layers = int(sizes.sum()), len(self._layers)
        ids = np.uint8 if self._num_experts <= 256 else np.uint16
        self._open[key] = _OpenShard(
            lengths=sizes,
            starts=np.cumsum(sizes) - sizes,
            done=np.zeros(len(sizes), dtype=np.int64),
            remaining=len(sizes),
            experts=np.empty((layers, self._top_k, total), dtype=ids),
            weights=np.empty((layers, self._top_k, total), dtype=np.float32),
            profiles=np.empty((layers, len(sizes), self._num_experts), dtype=np.float32) if self._profiles else None,
            token_ids=np.empty(total, dtype=np.int32),
        )

    def take(self) -> list[CapturedShard]:
        """Return the shards that were completed since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def unfinished(self) -> list[str]:
        """Return the keys of shards that lack positions."""
        return list(self._open)

    def add(self, step: Step, rows: Sequence[Rows]) -> None:
        """Add a step whose rows belong, in order, to `rows`; rows whose shard is "" are nobody's.

        Raises CaptureError, naming the layer, where a layer's rows were not written in this step, and where a
        request's positions do not continue what was captured before.
        """
        self._require_written(step)
        counts = np.array([entry.count for entry in rows], dtype=np.intp)
        if counts.sum() != len(step.token_ids):
            raise CaptureError(
                f"a step of {len(step.token_ids)} tokens has {counts.sum()} rows that belong to a request"
            )
        first = np.cumsum(counts) - counts
        sums = None if step.probabilities is None else np.add.reduceat(step.probabilities, first, axis=1)
        for number, (entry, row) in enumerate(zip(rows, first, strict=True)):
            if entry.shard:
                self._add_rows(step, entry, int(row), None if sums is None else sums[:, number])

    def _add_rows(self, step: Step, rows: Rows, row: int, sums: npt.NDArray[np.float32] | None) -> None:
        shard = self._open.get(rows.shard)
        if shard is None:
            raise CaptureError(f"{rows.shard}: rows of a shard that is not open")
        if rows.start > shard.done[rows.index]:
            raise CaptureError(
                f"{rows.shard}, text {rows.index}: positions {shard.done[rows.index]} to {rows.start - 1} were never "
                "computed (a prefix cache answered for them); trace with prefix caching off"
            )
        source = slice(row, row + rows.count)
        target = slice(shard.starts[rows.index] + rows.start, shard.starts[rows.index] + rows.start + rows.count)
        shard.experts[:, :, target] = step.experts[:, source].transpose(0, 2, 1)
        shard.weights[:, :, target] = step.weights[:, source].transpose(0, 2, 1)
        shard.token_ids[target] = step.token_ids[source]
        shard.done[rows.index] = end = rows.start + rows.count
        if shard.profiles is not None and sums is not None:
            self._add_sums(shard, rows, sums)
        if end == shard.lengths[rows.index]:
            shard.remaining -= 1
            if shard.remaining == 0:
                self._hand_over(rows.shard)

    def _add_sums(self, shard: _OpenShard, rows: Rows, sums: npt.NDArray[np.float32]) -> None:
        """Add a chunk's probability sums; chunks that a preempted request computes again replace the old ones."""
        kept = [chunk for chunk in shard.partial.pop(rows.index, []) if chunk[0] <= rows.start]
        if (kept[-1][0] if kept else 0) != rows.start:
            raise CaptureError(
                f"{rows.shard}, text {rows.index}: computed again from position {rows.start}, in the middle of a step; "
                "trace with --no-profiles"
            )
        end = rows.start + rows.count
        if shard.profiles is not None and end == shard.lengths[rows.index]:
            total = np.sum([chunk for _, chunk in kept], axis=0) + sums if kept else sums
            shard.profiles[:, rows.index] = total / np.float32(end)
        else:
            shard.partial[rows.index] = [*kept, (end, sums.copy())]

    def _hand_over(self, key: str) -> None:
        shard = self._open.pop(key)
        profiles = None if shard.profiles is None else shard.profiles.transpose(1, 0, 2)
        self._finished.append(
            CapturedShard(
                key, shard.experts.transpose(2, 0, 1), shard.weights.transpose(2, 0, 1), profiles, shard.token_ids
            )
        )

    def _require_written(self, step: Step) -> None:
        lowest = step.experts.min(axis=(1, 2), initial=np.iinfo(np.int32).max)
        for layer, low in zip(self._layers, lowest, strict=True):
            if low <= NOT_WRITTEN:
                raise CaptureError(
                    f"layer {layer}: the tap saw nothing in a step of {len(step.token_ids)} tokens; the engine does "
                    "not call the router that was tapped (installed too late, or a monolithic kernel)"
                )
