"""What an engine has under way: which shards are begun, which texts wait or run, and the shards that come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import repeat
from typing import TYPE_CHECKING, Protocol

import numpy as np

from moetrace.store.errors import CaptureError
from moetrace.store.format.plan_record import FailedText
from moetrace.store.shard.shard import Shard
from moetrace.tracer.worker.assembly import CapturedShard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.plan.shards import PlannedShard

GENERATING = 256  # texts that are kept in the engine while the model generates: each is one token of a step


class Memory(Protocol):
    """Who says how many bytes of shards may be in memory; who takes the shards gives their bytes back."""

    def reserve(self, key: str, size: int, *, wait: bool) -> bool:
        """Reserve the bytes of a shard; where they are not free, wait for them or return False."""

    def give_back(self, key: str) -> None:
        """Give back the bytes of a shard; nothing happens where it has none."""


class UnderWay:
    """The shards that are begun: what the plan says of them, the parts that pipeline stages delivered, their bytes.

    - shards: by key, in the order they were begun in
    - parts: of a shard, one of each stage that has completed it, in layer order
    - outputs: the tokens that were generated for each text of a shard, by the text's index
    """

    def __init__(self, facts: ModelFacts, layers: int, generation: Generation | None, memory: Memory | None) -> None:
        self.generation = generation
        self.shards: dict[str, PlannedShard] = {}
        self.parts: dict[str, list[CapturedShard]] = {}
        self.outputs: dict[str, dict[int, list[int]]] = {}
        self._facts, self._layers, self._memory = facts, layers, memory

    def begin(self, shard: PlannedShard, *, wait: bool) -> bool:
        """Begin a shard where it fits into memory, or, with `wait`, as soon as it does; tell whether it was begun."""
        if self._memory is not None and not self._memory.reserve(shard.key, self._bytes(shard), wait=wait):
            return False
        self.shards[shard.key] = shard
        return True

    def give_back_all(self) -> None:
        """Give back the bytes of shards that will not be finished."""
        if self._memory is not None:
            for key in self.shards:
                self._memory.give_back(key)

    def completed(self, stages: int) -> list[str]:
        """Return the keys of the shards that each of so many pipeline stages has completed."""
        return [key for key, parts in self.parts.items() if len(parts) == stages]

    def finish(self, key: str) -> Shard:
        """Take off a completed shard and return what a filter keeps of it.

        Raises CaptureError where the token ids are not the plan's.
        """
        planned, parts = self.shards.pop(key), self.parts.pop(key)
        outputs = self.outputs.pop(key, {})
        whole = parts[0] if len(parts) == 1 else _stacked(parts)
        expected = list(planned.token_ids)
        if outputs:
            pairs = ((ids, np.asarray(outputs.get(index, ()), np.int32)) for index, ids in enumerate(expected))
            expected = [part for pair in pairs for part in pair]
        if not np.array_equal(whole.token_ids, np.concatenate(expected)):
            raise CaptureError(f"{key}: the engine ran other tokens than the plan's")
        shard = Shard(
            lang=planned.lang,
            number=planned.number,
            seqs=planned.seqs,
            text_ids=planned.text_ids,
            lengths=whole.lengths.astype(np.int32),
            truncated=planned.truncated,
            token_ids=whole.token_ids,
            experts=whole.experts,
            weights=whole.weights,
            profiles=whole.profiles,
            generated=(whole.lengths - planned.lengths).astype(np.int32) if self.generation else None,
            texts=[self.generation.decode(outputs[i]) for i in range(len(planned.seqs))] if self.generation else None,
        )
        return shard if whole.kept is None else without_left_out(shard, whole.kept)

    def _bytes(self, shard: PlannedShard) -> int:
        new = self.generation.max_new_tokens if self.generation else 0
        tokens, texts = shard.tokens + new * len(shard.seqs), len(shard.seqs)
        return self._facts.captured_bytes(tokens, texts, self._layers)


@dataclass
class QueuedText:
    """A text in the engine: number `index` of a shard, of so many tokens."""

    shard: str
    index: int
    tokens: int


class TextQueue:
    """Which texts are waiting and which are in the engine: one more only while there are less than `limit` tokens."""

    def __init__(self, shards: Iterator[PlannedShard], under_way: UnderWay, limit: int) -> None:
        self.running: dict[str, QueuedText] = {}
        self._shards, self._under_way, self._limit, self._queued = shards, under_way, limit, 0
        self._next: PlannedShard | None = None
        self._texts: Iterator[tuple[PlannedShard, int]] = iter(())

    def fill(
        self,
        open_shard: Callable[[PlannedShard, Generation | None], None],
        add: Callable[[PlannedShard, int, Generation | None], str],
    ) -> bool:
        """Add texts until the limit is reached or none is left; tell whether any text is in the engine.

        `open_shard` announces a shard before its first text; `add` gives a text to the engine and returns its request.
        """
        generation = self._under_way.generation
        while self._queued < self._limit or (generation and len(self.running) < GENERATING):
            text = next(self._texts, None)
            if text is None:
                if not self._open_next(open_shard):
                    break
                continue
            shard, index = text
            tokens = len(shard.token_ids[index])
            self.running[add(shard, index, generation)] = QueuedText(shard.key, index, tokens)
            self._queued += tokens
        return bool(self.running)

    def _open_next(self, open_shard: Callable[[PlannedShard, Generation | None], None]) -> bool:
        """Begin the next shard; tell whether there was one that fits into memory."""
        shard = self._next = self._next or next(self._shards, None)
        if shard is None or not self._under_way.begin(shard, wait=not self.running):
            return False
        self._next = None
        open_shard(shard, self._under_way.generation)
        self._texts = zip(repeat(shard), range(len(shard.seqs)), strict=False)
        return True

    def finish(self, request: str, sampled: list[int]) -> tuple[str, int, int]:
        """Take a finished text off; return its shard, its index there and its positions.

        Of `sampled` tokens the last is never run: it has no routing, and is no part of the text.
        """
        text = self.running.pop(request)
        self._queued -= text.tokens
        if self._under_way.generation is None:
            return text.shard, text.index, text.tokens
        generated = list(sampled[:-1])
        self._under_way.outputs.setdefault(text.shard, {})[text.index] = generated
        return text.shard, text.index, text.tokens + len(generated)


def without_left_out(shard: Shard, kept: npt.NDArray[np.bool_]) -> Shard:
    """Return a shard without the tokens that a filter leaves out; texts of which nothing is left are set aside.

    shard: experts and weights are of the kept tokens alone, all else of every token; kept: bool [T]
    """
    texts, text = len(shard.seqs), shard.sequence_of_token()
    lengths = np.bincount(text[kept], minlength=texts).astype(np.int32)
    generated = None
    if shard.generated is not None:
        generated = np.bincount(text[kept & shard.generated_tokens()], minlength=texts).astype(np.int32)
    there = np.flatnonzero(lengths)
    gone = np.flatnonzero(lengths == 0).tolist()
    return replace(
        shard,
        seqs=shard.seqs[there],
        text_ids=[shard.text_ids[index] for index in there],
        lengths=lengths[there],
        truncated=shard.truncated[there],
        token_ids=None if shard.token_ids is None else shard.token_ids[kept],
        profiles=None if shard.profiles is None else shard.profiles[:, there],
        generated=None if generated is None else generated[there],
        texts=None if shard.texts is None else [shard.texts[index] for index in there],
        token_positions=shard.positions()[kept],
        set_aside=tuple(
            FailedText.left_out(int(shard.seqs[index]), shard.text_ids[index], int(shard.lengths[index]))
            for index in gone
        ),
    )


def _stacked(parts: list[CapturedShard]) -> CapturedShard:
    """Return the layers of all pipeline stages as one shard; stages come in order."""
    first = parts[0]
    kept = [part.kept for part in parts if part.kept is not None]
    if any(not np.array_equal(kept[0], other) for other in kept[1:]):
        raise CaptureError(f"{first.key}: the pipeline stages ran different tokens")
    profiles = None if first.profiles is None else np.concatenate([part.profiles for part in parts])
    return CapturedShard(
        first.key,
        first.lengths,
        np.concatenate([part.experts for part in parts]),
        np.concatenate([part.weights for part in parts]),
        profiles,
        first.token_ids,
        first.kept,
    )
