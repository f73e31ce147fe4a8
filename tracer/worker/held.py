"""Rows of requests that nobody planned, held as steps brought them until their texts are whole. NumPy only: no vLLM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError
from moetrace.store.format.expert_ids import expert_dtype
from moetrace.tracer.worker.steps import add_sums, require_written

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from moetrace.tracer.worker.steps import Step, StepRows

ROOM = 64  # texts that room for profiles grows by, at least


@dataclass(eq=False)
class HeldText:
    """A text under way: its number among those that are held, how many positions were captured, whether it ended."""

    lang: str
    text_id: str
    prompt_tokens: int
    number: int = -1
    captured: int = 0
    finished: bool = False


@dataclass(frozen=True)
class CutTexts:
    """What was captured of S whole texts of T tokens, text after text.

    - lengths: int32 [S]; token_ids: int32 [T]; experts, weights: [L, k, T]; profiles: float32 [L, S, E] or None
    """

    lengths: npt.NDArray[np.int32]
    token_ids: npt.NDArray[np.int32]
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    profiles: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class _Chunk:
    """Rows as one step brought them: whose they are and their positions, [n], and what was captured, [L, k, n]."""

    texts: npt.NDArray[np.intp]
    positions: npt.NDArray[np.int64]
    token_ids: npt.NDArray[np.int32]
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]

    def only(self, kept: npt.NDArray[Any]) -> _Chunk:
        return _Chunk(
            self.texts[kept],
            self.positions[kept],
            self.token_ids[kept],
            self.experts[:, :, kept],
            self.weights[:, :, kept],
        )


class HeldRows:
    """The rows of texts under way, and, with `profiles`, the sums of their router probabilities.

    - texts: those that are held, in the order of their numbers
    """

    def __init__(self, moe_layers: Sequence[int], num_experts: int, *, profiles: bool) -> None:
        """Hold nothing yet."""
        self.texts: list[HeldText] = []
        self._layers, self._num_experts, self._profiles = list(moe_layers), num_experts, profiles
        self._chunks: list[_Chunk] = []
        self._sums = np.zeros((len(self._layers), 0, num_experts), dtype=np.float32)

    def begin(self, text: HeldText) -> None:
        """Take up a text, before any of its rows."""
        text.number = len(self.texts)
        self.texts.append(text)
        layers, room, experts = self._sums.shape
        if self._profiles and len(self.texts) > room:
            more = np.zeros((layers, ROOM + room, experts), np.float32)
            self._sums = np.concatenate([self._sums, more], axis=1)

    def add(self, step: Step, rows: StepRows, owners: Sequence[HeldText | None]) -> None:
        """Hold the rows of a step; `owners` says for each of its requests which text it is, None: nobody's.

        Raises CaptureError where a layer was not seen, and where a cache answered for positions.
        """
        require_written(step, self._layers)
        mine = np.array([owner is not None for owner in owners])
        texts = [owner for owner in owners if owner is not None]
        starts, counts = rows.starts[mine], rows.counts[mine]
        captured = np.array([text.captured for text in texts], dtype=np.int64)
        if np.any(starts > captured):
            text = texts[int(np.argmax(starts > captured))]
            raise CaptureError(
                f"request {text.text_id}: a prefix cache answered for its first positions; turn prefix caching off"
            )
        numbers = np.array([text.number for text in texts], dtype=np.intp)
        kept = None if mine.all() else np.flatnonzero(np.repeat(mine, rows.counts))
        firsts = np.cumsum(counts) - counts
        self._chunks.append(
            _Chunk(
                np.repeat(numbers, counts),
                np.arange(counts.sum()) + np.repeat(starts - firsts, counts),
                _copied(step.token_ids, kept),
                _copied(step.experts, kept).astype(expert_dtype(self._num_experts), copy=False),
                _copied(step.weights, kept),
            )
        )
        if self._profiles and step.probability_sums is not None:
            add_sums(self._sums, step.probability_sums, numbers, np.flatnonzero(mine), starts == 0)
        for text, end in zip(texts, (starts + counts).tolist(), strict=True):
            text.captured = end

    def cut(self, texts: Sequence[HeldText]) -> CutTexts:
        """Return what was captured of texts, a position of each at least; what was computed twice, taken once."""
        held = self._joined()
        numbers = np.array([text.number for text in texts], dtype=np.intp)
        rank = np.full(len(self.texts), -1)
        rank[numbers] = np.arange(len(numbers))
        mine = np.flatnonzero(rank[held.texts] >= 0)
        order = mine[np.lexsort((mine, held.positions[mine], rank[held.texts[mine]]))]
        text, position = rank[held.texts[order]], held.positions[order]
        last = np.append((text[1:] != text[:-1]) | (position[1:] != position[:-1]), True)
        lengths = np.array([each.captured for each in texts], dtype=np.int32)
        whole = held.only(order[last & (position < lengths[text])])
        profiles = None
        if self._profiles:
            profiles = self._sums[:, numbers]
            profiles /= lengths.astype(np.float32)[:, None]
        return CutTexts(lengths, whole.token_ids, whole.experts, whole.weights, profiles)

    def drop(self, texts: Collection[HeldText]) -> None:
        """Let go of some texts; the others are numbered anew."""
        gone = {text.number for text in texts}
        rest = [text for text in self.texts if text.number not in gone]
        old = np.array([text.number for text in rest], dtype=np.intp)
        renumbered = np.full(len(self.texts), -1)
        renumbered[old] = np.arange(len(old))
        if self._chunks and rest:
            held = self._joined()
            held = held.only(renumbered[held.texts] >= 0)
            self._chunks = [replace(held, texts=renumbered[held.texts])]
        else:
            self._chunks = []
        self._sums = self._sums[:, old] if self._profiles else self._sums
        for number, text in enumerate(rest):
            text.number = number
        self.texts = rest

    def _joined(self) -> _Chunk:
        """Return all chunks as one, and hold that in their place."""
        if len(self._chunks) > 1:
            joined = _Chunk(
                np.concatenate([chunk.texts for chunk in self._chunks]),
                np.concatenate([chunk.positions for chunk in self._chunks]),
                np.concatenate([chunk.token_ids for chunk in self._chunks]),
                np.concatenate([chunk.experts for chunk in self._chunks], axis=2),
                np.concatenate([chunk.weights for chunk in self._chunks], axis=2),
            )
            self._chunks = [joined]
        return self._chunks[0]


def _copied(rows: npt.NDArray[Any], kept: npt.NDArray[np.intp] | None) -> npt.NDArray[Any]:
    """Return a copy of the rows [..., n] of a step that are kept, None: all."""
    return rows.copy() if kept is None else np.take(rows, kept, axis=-1)
