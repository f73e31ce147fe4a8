"""Putting the rows of engine steps together into the shards of a plan. NumPy only: knows neither vLLM nor Parquet.

A step computes some positions of some requests. Chunked prefill cuts a text over steps, decoding adds a position a
step, preemption starts a text again. Whatever the schedule, each (text, position) has been written exactly once when
its shard is handed over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError
from moetrace.store.format.expert_ids import expert_dtype
from moetrace.tracer.worker import TAG
from moetrace.tracer.worker.steps import KeptRows, Step, StepRows, add_sums, require_written, runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllm.v1.core.sched.output import NewRequestData

    from moetrace.tracer.plan.token_filter import TokenFilter


@dataclass(frozen=True)
class CapturedShard:
    """A shard of S texts and T tokens whose every position was captured, K of them kept (all, without a filter).

    - lengths: int64 [S]; token_ids: int32 [T]; kept: bool [T], None where all are; of every position, text after text
    - experts, weights: [L, k, K]; profiles: float32 [L, S, E] or None, 0 for a text of which nothing is kept
    """

    key: str
    lengths: npt.NDArray[np.int64]
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    profiles: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int32]
    kept: npt.NDArray[np.bool_] | None = None


@dataclass
class _Positions:
    """Memory for T positions, text after text; experts, weights: [L, k, T]; starts: [S], where each text begins."""

    starts: npt.NDArray[np.int64]
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    token_ids: npt.NDArray[np.int32]

    @classmethod
    def of_prompts(cls, lengths: npt.NDArray[np.int64], layers: int, top_k: int, ids: np.dtype[Any]) -> _Positions:
        """Make room for texts of so many tokens, in the order in which a shard is handed over."""
        shape = (layers, top_k, int(lengths.sum()))
        return cls(
            np.cumsum(lengths) - lengths,
            np.empty(shape, ids),
            np.empty(shape, np.float32),
            np.empty(shape[2], np.int32),
        )

    @classmethod
    def generated(cls, texts: int, new_tokens: int, layers: int, top_k: int, ids: np.dtype[Any]) -> _Positions:
        """Make room for what is generated after each text, in memory token by token: a step has one of each text."""
        shape = (texts * new_tokens, layers, top_k)
        experts, weights = np.empty(shape, ids).transpose(1, 2, 0), np.empty(shape, np.float32).transpose(1, 2, 0)
        return cls(np.arange(texts) * new_tokens, experts, weights, np.empty(shape[0], np.int32))

    def put(
        self,
        step: Step,
        targets: npt.NDArray[np.int64],
        sources: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
    ) -> None:
        """Copy stretches of a step's rows, [R], each from its source on, to the positions from its target on."""
        some = counts > 0
        if not some.any():
            return
        targets, sources, counts = runs(targets[some], sources[some], counts[some])
        single = counts == 1
        if single.any():
            self._put_each(step, targets[single], sources[single])
            targets, sources, counts = targets[~single], sources[~single], counts[~single]
        for target, source, count in zip(targets.tolist(), sources.tolist(), counts.tolist(), strict=True):
            there, here = slice(target, target + count), slice(source, source + count)
            self.experts[:, :, there] = step.experts[:, :, here]
            self.weights[:, :, there] = step.weights[:, :, here]
            self.token_ids[there] = step.token_ids[here]

    def _put_each(self, step: Step, targets: npt.NDArray[np.int64], sources: npt.NDArray[np.int64]) -> None:
        first, count = int(sources[0]), len(sources)
        # Rows that follow one another need not be gathered first.
        here = slice(first, first + count) if int(sources[-1]) - first == count - 1 else sources
        self.experts.transpose(2, 0, 1)[targets] = step.experts[:, :, here].transpose(2, 0, 1)
        self.weights.transpose(2, 0, 1)[targets] = step.weights[:, :, here].transpose(2, 0, 1)
        self.token_ids[targets] = step.token_ids[here]


@dataclass
class _OpenShard:
    """Memory of a shard under way, with room for every position that a text may come to have."""

    token_filter: TokenFilter | None
    prompts: npt.NDArray[np.int64]  # positions of each text that the model does not generate
    room: npt.NDArray[np.int64]
    expected: npt.NDArray[np.int64]  # positions that make a text complete; -1: not known yet
    done: npt.NDArray[np.int64]
    prompted: _Positions
    generated: _Positions | None
    profiles: npt.NDArray[np.float32] | None  # sums until the shard is handed over

    def is_complete(self) -> bool:
        return bool(np.all((self.expected >= 0) & (self.done >= self.expected)))


@dataclass(frozen=True)
class _TextRows:
    """The rows of a step that belong to one shard, over R of its texts.

    - numbers: of each text's request in the step; texts: its index in the shard; starts, counts: as in StepRows
    - first: where its rows begin in the step
    """

    numbers: npt.NDArray[np.intp]
    texts: npt.NDArray[np.intp]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


class PlannedShards:
    """A `Sink` that puts steps together to shards; one is handed over once, when its last position has been written.

    A request says with `extra_args={TAG: [shard, text]}` which text of which shard it is; others are nobody's.
    One thread may call `add`, `end` and `finish` while another calls the rest.
    """

    def __init__(self, layers: Sequence[int], num_experts: int, top_k: int, *, profiles: bool) -> None:
        """Take the shape of what is captured: MoE layers ascending, experts of each, experts chosen for a token."""
        self._layers, self._num_experts, self._top_k, self._profiles = list(layers), num_experts, top_k, profiles
        self._open: dict[str, _OpenShard] = {}
        self._texts: dict[str, tuple[str, int]] = {}
        self._finished: deque[CapturedShard] = deque()

    def begin(self, request: NewRequestData) -> bool:
        """Remember which text a request is; tell whether it is one of a shard's."""
        extra = (request.sampling_params.extra_args if request.sampling_params else None) or {}
        if TAG not in extra:
            return False
        shard, text = extra[TAG]
        self._texts[request.req_id] = (shard, text)
        return True

    def end(self, request: str) -> None:
        """Forget a request; its text is whole by its length, or by `finish`."""
        self._texts.pop(request, None)

    def open(
        self, key: str, lengths: Sequence[int], new_tokens: int = 0, token_filter: TokenFilter | None = None
    ) -> None:
        """Announce a shard and the number of tokens of each of its texts, before any of them runs.

        With `new_tokens` each text may grow by that many generated tokens, and ends where `finish` says. Shards that
        are open at the same time have the same filter, or none.
        """
        prompts = np.asarray(lengths, dtype=np.int64)
        room = prompts + new_tokens
        layers, texts = len(self._layers), len(room)
        shape = (layers, self._top_k, expert_dtype(self._num_experts))
        self._open[key] = _OpenShard(
            token_filter=token_filter,
            prompts=prompts,
            room=room,
            expected=np.full(texts, -1) if new_tokens else room,
            done=np.zeros(texts, dtype=np.int64),
            prompted=_Positions.of_prompts(prompts, *shape),
            generated=_Positions.generated(texts, new_tokens, *shape) if new_tokens else None,
            profiles=np.empty((layers, texts, self._num_experts), dtype=np.float32) if self._profiles else None,
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
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def unfinished(self) -> list[str]:
        """Return the keys of shards that lack positions."""
        return list(self._open)

    def kept(self, rows: StepRows) -> KeptRows | None:
        """Tell which rows of a step count in a profile; None: every one."""
        open_now = dict(self._open)  # where steps are added by a thread, shards are handed over meanwhile
        token_filter = next((shard.token_filter for shard in open_now.values() if shard.token_filter), None)
        if token_filter is None:
            return None
        prompts = np.zeros(len(rows.requests), dtype=np.int64)
        for number, request in enumerate(rows.requests):
            key, text = self._texts.get(request, (None, 0))
            if key in open_now:
                prompts[number] = open_now[key].prompts[text]
        firsts = np.cumsum(rows.counts) - rows.counts
        positions = np.arange(rows.counts.sum()) + np.repeat(rows.starts - firsts, rows.counts)
        at_kept = token_filter.keeps_position(positions, np.repeat(prompts, rows.counts))
        return KeptRows(at_kept, token_filter.special)

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
        members: dict[str, tuple[list[int], list[int]]] = {}
        for number, request in enumerate(rows.requests):
            if (mine := self._texts.get(request)) is not None:
                numbers, texts = members[mine[0]] if mine[0] in members else members.setdefault(mine[0], ([], []))
                numbers.append(number)
                texts.append(mine[1])
        first = np.cumsum(rows.counts) - rows.counts
        for key, (numbers, texts) in members.items():
            at = np.array(numbers)
            self._add_rows(key, step, _TextRows(at, np.array(texts), rows.starts[at], rows.counts[at], first[at]))
        self._hand_over_complete(members)

    def _add_rows(self, key: str, step: Step, rows: _TextRows) -> None:
        shard = self._open.get(key)
        if shard is None:
            raise CaptureError(f"{key}: rows of a shard that is not open")
        ends = rows.starts + rows.counts
        self._check_positions(key, shard, rows.texts, rows.starts, ends)
        of_prompt = np.clip(shard.prompts[rows.texts] - rows.starts, 0, rows.counts)
        shard.prompted.put(step, shard.prompted.starts[rows.texts] + rows.starts, rows.first, of_prompt)
        if shard.generated is not None:
            first = shard.generated.starts[rows.texts] + np.maximum(rows.starts - shard.prompts[rows.texts], 0)
            shard.generated.put(step, first, rows.first + of_prompt, rows.counts - of_prompt)
        if shard.profiles is not None and step.probability_sums is not None:
            add_sums(shard.profiles, step.probability_sums, rows.texts, rows.numbers, rows.starts == 0)
        shard.done[rows.texts] = ends

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


def _captured(key: str, shard: _OpenShard) -> CapturedShard:
    lengths, kept = shard.expected, None
    experts, weights, token_ids = _whole(shard)
    counted = lengths
    if shard.token_filter:
        text = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.arange(len(text)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = shard.token_filter.keeps(positions, shard.prompts[text], token_ids)
        counted = np.maximum(np.bincount(text[kept], minlength=len(lengths)), 1)
        columns = np.flatnonzero(kept)
        experts, weights = np.take(experts, columns, axis=2), np.take(weights, columns, axis=2)
    if shard.profiles is not None:
        shard.profiles /= counted[:, None].astype(np.float32)
    return CapturedShard(key, lengths, experts, weights, shard.profiles, token_ids, kept)


def _whole(shard: _OpenShard) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return experts and weights [L, k, T] and token ids [T], what was generated after each text in its place."""
    prompted, generated = shard.prompted, shard.generated
    if generated is None:
        return prompted.experts, prompted.weights, prompted.token_ids
    prompts, more = shard.prompts, shard.expected - shard.prompts
    ends = np.cumsum(shard.expected)
    spans = list(zip(ends - more - prompts, prompts, prompted.starts, more, generated.starts, strict=True))

    def joined(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
        whole = np.empty((*one.shape[:-1], ends[-1]), one.dtype)
        for first, old, from_one, new, from_other in spans:
            whole[..., first : first + old] = one[..., from_one : from_one + old]
            whole[..., first + old : first + old + new] = other[..., from_other : from_other + new]
        return whole

    return (
        joined(prompted.experts, generated.experts),
        joined(prompted.weights, generated.weights),
        joined(prompted.token_ids, generated.token_ids),
    )
