"""What an engine has under way: which shards are begun, which texts wait or run, and the shards that come out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import CaptureError
from moetrace.store.shard.shard import Shard
from moetrace.tracer.worker.assembly import CapturedShard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.plan.plan import PlannedShard
    from moetrace.tracer.runs.outlet import MemoryBudget


@dataclass
class Text:
    """A text in the engine."""

    shard: str
    index: int
    tokens: int


class Run:
    """What one call of `trace` has under way: shards, the parts of them that pipeline stages delivered, their bytes."""

    def __init__(
        self, facts: ModelFacts, layers: int, generation: Generation | None, budget: MemoryBudget | None
    ) -> None:
        self.generation = generation
        self.under_way: dict[str, PlannedShard] = {}
        self.parts: dict[str, list[CapturedShard]] = {}
        self.outputs: dict[str, dict[int, list[int]]] = {}
        self._facts, self._layers, self._budget = facts, layers, budget

    def may_open(self, shard: PlannedShard, *, idle: bool) -> bool:
        """Tell whether a shard fits into memory now; with nothing under way, wait until it does."""
        if self._budget is None:
            return True
        return self._budget.take(shard.key, self._bytes(shard), wait=idle)

    def _bytes(self, shard: PlannedShard) -> int:
        new = self.generation.max_new_tokens if self.generation else 0
        tokens, texts = shard.tokens + new * len(shard.seqs), len(shard.seqs)
        return self._facts.captured_bytes(tokens, texts, self._layers)

    def give_back_all(self) -> None:
        """Give back the bytes of shards that will not be finished."""
        if self._budget is not None:
            for key in self.under_way:
                self._budget.give_back(key)

    def shard(self, key: str) -> Shard:
        """Return a completed shard; raise CaptureError where the token ids are not the plan's."""
        planned, parts = self.under_way.pop(key), self.parts.pop(key)
        outputs = self.outputs.pop(key, {})
        whole = parts[0] if len(parts) == 1 else _stacked(parts)
        expected = [
            np.concatenate([ids, np.asarray(outputs.get(index, ()), dtype=np.int32)])
            for index, ids in enumerate(planned.token_ids)
        ]
        if not np.array_equal(whole.token_ids, np.concatenate(expected)):
            raise CaptureError(f"{key}: the engine ran other tokens than the plan's")
        return Shard(
            lang=planned.lang,
            number=planned.number,
            seqs=planned.seqs,
            text_ids=planned.text_ids,
            lengths=whole.lengths.astype(np.int32),
            truncated=planned.truncated,
            token_ids=whole.token_ids,
            experts=whole.experts.transpose(2, 0, 1),
            weights=whole.weights.transpose(2, 0, 1),
            profiles=None if whole.profiles is None else whole.profiles.transpose(1, 0, 2),
            generated=(whole.lengths - planned.lengths).astype(np.int32) if self.generation else None,
            texts=[self.generation.decode(outputs[i]) for i in range(len(planned.seqs))] if self.generation else None,
        )


class Feed:
    """Which texts are waiting and which are in the engine: never more than `limit` tokens of them."""

    def __init__(self, shards: Iterator[PlannedShard], run: Run, limit: int) -> None:
        self.running: dict[str, Text] = {}
        self._shards, self._run, self._limit, self._queued = shards, run, limit, 0
        self._next: PlannedShard | None = None
        self._texts: Iterator[tuple[PlannedShard, int]] = iter(())

    def fill(
        self,
        open_shard: Callable[[PlannedShard, Generation | None], None],
        add: Callable[[PlannedShard, int, Generation | None], str],
    ) -> bool:
        """Add texts until the limit is reached or none is left; tell whether any text is in the engine."""
        while self._queued < self._limit or (self._run.generation and len(self.running) < 256):
            text = next(self._texts, None)
            if text is None:
                if not self._open_next(open_shard):
                    break
                continue
            shard, index = text
            tokens = len(shard.token_ids[index])
            self.running[add(shard, index, self._run.generation)] = Text(shard.key, index, tokens)
            self._queued += tokens
        return bool(self.running)

    def _open_next(self, open_shard: Callable[[PlannedShard, Generation | None], None]) -> bool:
        """Begin the next shard; tell whether there was one that fits into memory."""
        shard = self._next = self._next or next(self._shards, None)
        if shard is None or not self._run.may_open(shard, idle=not self.running):
            return False
        self._next = None
        self._run.under_way[shard.key] = shard
        open_shard(shard, self._run.generation)
        self._texts = zip(repeat(shard), range(len(shard.seqs)), strict=False)
        return True

    def finish(self, request: str, sampled: list[int]) -> tuple[str, int, int]:
        """Take a finished text off; return its shard, its index there and its positions."""
        text = self.running.pop(request)
        self._queued -= text.tokens
        if self._run.generation is None:
            return text.shard, text.index, text.tokens
        run = list(sampled[:-1])
        self._run.outputs.setdefault(text.shard, {})[text.index] = run
        return text.shard, text.index, text.tokens + len(run)


def _stacked(parts: list[CapturedShard]) -> CapturedShard:
    """Return the layers of all pipeline stages as one shard; stages come in order."""
    first = parts[0]
    profiles = None if first.profiles is None else np.concatenate([part.profiles for part in parts])
    return CapturedShard(
        first.key,
        first.lengths,
        np.concatenate([part.experts for part in parts]),
        np.concatenate([part.weights for part in parts]),
        profiles,
        first.token_ids,
    )
