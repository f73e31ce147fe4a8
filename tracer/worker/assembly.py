"""Putting the rows of engine steps together into sequences and shards. NumPy only: knows neither vLLM nor Parquet.

A step computes some positions of some requests. Chunked prefill cuts a text over steps, decoding adds a position a
step, preemption starts a text again. Whatever the schedule, each (text, position) has been written exactly once when
its shard is handed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError
from moetrace.store.format.expert_ids import expert_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NOT_WRITTEN = -1

Owner = tuple[str, int]  # a shard, and the index of a text in it


@dataclass(frozen=True)
class StepRows:
    """Whose the rows of a step are, request after request in row order, over R requests.

    - owners: whom each request's rows belong to; None: nobody's
    - starts: int64 [R], position of each request's first row in its text
    - counts: int64 [R], rows of each request
    """

    owners: Sequence[Any]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """What the tap saw in one engine step of n tokens of R requests, over L MoE layers.

    - experts: integers [L, n, k], NOT_WRITTEN where no router wrote; weights: float32 [L, n, k], as applied
    - probability_sums: float32 [L, R, E], full router probabilities added up over each request's rows, or None
    - token_ids: int32 [n]
    """

    experts: npt.NDArray[np.signedinteger]
    weights: npt.NDArray[np.float32]
    probability_sums: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int32]


@dataclass(frozen=True)
class CapturedShard:
    """A shard of S texts and T tokens whose every position was captured.

    - lengths: int64 [S]; experts, weights: [L, k, T], text after text; profiles: float32 [L, S, E] or None
    - token_ids: int32 [T]
    """

    key: str
    lengths: npt.NDArray[np.int64]
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    profiles: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int32]


@dataclass
class _OpenShard:
    """Buffers of a shard under way, with room for every position that a text may come to have."""

    starts: npt.NDArray[np.int64]
    room: npt.NDArray[np.int64]
    expected: npt.NDArray[np.int64]  # positions that make a text complete; -1: not known yet
    done: npt.NDArray[np.int64]
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    profiles: npt.NDArray[np.float32] | None  # sums until the shard is handed over
    token_ids: npt.NDArray[np.int32]

    def is_complete(self) -> bool:
        return bool(np.all((self.expected >= 0) & (self.done >= self.expected)))


class ShardAssembler:
    """Collects steps into shards; a shard is handed over once, when its last position has been written."""

    def __init__(self, layers: Sequence[int], num_experts: int, top_k: int, *, profiles: bool) -> None:
        self._layers, self._num_experts, self._top_k, self._profiles = list(layers), num_experts, top_k, profiles
        self._open: dict[str, _OpenShard] = {}
        self._finished: list[CapturedShard] = []

    def open(self, key: str, lengths: Sequence[int], new_tokens: int = 0) -> None:
        """Announce a shard and the number of tokens of each of its texts, before any of them runs.

        With `new_tokens` each text may grow by that many generated tokens, and ends where `finish` says.
        """
        room = np.asarray(lengths, dtype=np.int64) + new_tokens
        total, layers, texts = int(room.sum()), len(self._layers), len(room)
        ids = expert_dtype(self._num_experts)
        self._open[key] = _OpenShard(
            starts=np.cumsum(room) - room,
            room=room,
            expected=np.full(texts, -1) if new_tokens else room,
            done=np.zeros(texts, dtype=np.int64),
            experts=np.empty((layers, self._top_k, total), dtype=ids),
            weights=np.empty((layers, self._top_k, total), dtype=np.float32),
            profiles=np.empty((layers, texts, self._num_experts), dtype=np.float32) if self._profiles else None,
            token_ids=np.empty(total, dtype=np.int32),
        )

    def finish(self, ends: Iterable[tuple[str, int, int]]) -> None:
        """Say of texts that were announced with `new_tokens` how many positions they have: (shard, text, positions)."""
        touched = set()
        for key, text, positions in ends:
            self._open[key].expected[text] = positions
            touched.add(key)
        self._hand_over_complete(touched)

    def take(self) -> list[CapturedShard]:
        """Return the shards that were completed since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def unfinished(self) -> list[str]:
        """Return the keys of shards that lack positions."""
        return list(self._open)

    def add(self, step: Step, rows: StepRows) -> None:
        """Add a step.

        Raises CaptureError, naming the layer, where a layer's rows were not written in this step, and where a
        request's positions do not continue what was captured before.
        """
        require_written(step, self._layers)
        if rows.counts.sum() != len(step.token_ids):
            raise CaptureError(
                f"a step of {len(step.token_ids)} tokens has {rows.counts.sum()} rows that belong to a request"
            )
        members: dict[str, list[int]] = {}
        for number, owner in enumerate(rows.owners):
            if owner is not None:
                members.setdefault(owner[0], []).append(number)
        first = np.cumsum(rows.counts) - rows.counts
        for key, numbers in members.items():
            texts = np.array([rows.owners[number][1] for number in numbers])
            mine = StepRows(texts.tolist(), rows.starts[numbers], rows.counts[numbers])
            sums = None if step.probability_sums is None else step.probability_sums[:, numbers]
            self._add_rows(key, step, mine, first[numbers], sums)
        self._hand_over_complete(members)

    def _add_rows(
        self,
        key: str,
        step: Step,
        rows: StepRows,
        first: npt.NDArray[np.int64],
        sums: npt.NDArray[np.float32] | None,
    ) -> None:
        """Add the rows of one shard; `rows.owners` are indices of its texts, `first` is where a request's rows are."""
        shard = self._open.get(key)
        if shard is None:
            raise CaptureError(f"{key}: rows of a shard that is not open")
        texts, ends = np.asarray(rows.owners), rows.starts + rows.counts
        self._check_positions(key, shard, texts, rows.starts, ends)
        targets = shard.starts[texts] + rows.starts
        single = rows.counts == 1
        _copy(shard, step, targets[single], first[single])
        for target, source, count in zip(targets[~single], first[~single], rows.counts[~single], strict=True):
            _copy(shard, step, slice(target, target + count), slice(source, source + count))
        if shard.profiles is not None and sums is not None:
            again = rows.starts == 0
            shard.profiles[:, texts[again]] = sums[:, again]
            shard.profiles[:, texts[~again]] += sums[:, ~again]
        shard.done[texts] = ends

    def _check_positions(
        self,
        key: str,
        shard: _OpenShard,
        texts: npt.NDArray[np.intp],
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> None:
        done = shard.done[texts]
        if np.any(starts > done):
            at = int(np.argmax(starts > done))
            raise CaptureError(
                f"{key}, text {texts[at]}: positions {done[at]} to {starts[at] - 1} were never "
                "computed (a prefix cache answered for them); trace with prefix caching off"
            )
        if np.any(ends > shard.room[texts]):
            at = int(np.argmax(ends > shard.room[texts]))
            raise CaptureError(
                f"{key}, text {texts[at]}: position {ends[at] - 1} was computed, the text has {shard.room[texts[at]]}"
            )
        # Only a text that starts again from its first position lets its sums be replaced.
        if self._profiles and np.any((starts > 0) & (starts < done)):
            at = int(np.argmax((starts > 0) & (starts < done)))
            raise CaptureError(
                f"{key}, text {texts[at]}: computed again from position {starts[at]}, in the middle of it; "
                "trace with --no-profiles"
            )

    def _hand_over_complete(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._open[key].is_complete():
                self._finished.append(_captured(key, self._open.pop(key)))


def require_written(step: Step, layers: Sequence[int]) -> None:
    """Raise CaptureError naming the first of the MoE layers that left a row of the step unwritten."""
    lowest = step.experts.reshape(len(layers), -1).min(axis=1, initial=np.iinfo(step.experts.dtype).max)
    for layer, low in zip(layers, lowest, strict=True):
        if low <= NOT_WRITTEN:
            raise CaptureError(
                f"layer {layer}: the tap saw nothing in a step of {len(step.token_ids)} tokens; the engine does "
                "not call the router that was tapped (installed too late, or a monolithic kernel)"
            )


def _copy(shard: _OpenShard, step: Step, target: Any, source: Any) -> None:
    """Copy rows `source` of a step to positions `target` of a shard; both slices, or both index arrays."""
    shard.experts[:, :, target] = step.experts[:, source].transpose(0, 2, 1)
    shard.weights[:, :, target] = step.weights[:, source].transpose(0, 2, 1)
    shard.token_ids[target] = step.token_ids[source]


def _captured(key: str, shard: _OpenShard) -> CapturedShard:
    lengths = shard.expected
    if shard.profiles is not None:
        shard.profiles /= lengths[:, None].astype(np.float32)
    experts, weights, token_ids = shard.experts, shard.weights, shard.token_ids
    if np.any(lengths < shard.room):
        kept = np.concatenate(
            [np.arange(start, start + length) for start, length in zip(shard.starts, lengths, strict=True)]
        )
        experts, weights, token_ids = experts[:, :, kept], weights[:, :, kept], token_ids[kept]
    return CapturedShard(key, lengths, experts, weights, shard.profiles, token_ids)
