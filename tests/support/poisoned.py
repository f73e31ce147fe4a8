"""A stand-in for an engine that some texts break, and traces with it in processes that tests start.

The server that forks these processes imports this module once, so nothing here may start a thread when it is imported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.format.plan_record import FailedText
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.engine.failures import engine_failures
from moetrace.tracer.runs import shards as tracing
from moetrace.tracer.runs.engines import RestartedEngine
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.settings import TraceSettings
from tests.support.planned import planned
from tests.support.stores import make_record, make_shard, make_world, shards_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from moetrace.store.shard.shard import Shard
    from moetrace.store.storage.base import Storage
    from moetrace.tracer.engine.queue import Memory
    from moetrace.tracer.plan.shards import PlannedShard

WORLD = make_world(seed=11, record=make_record(languages=("eng_Latn", "deu_Latn")), texts=25)
TEXTS = 8  # of a shard
AHEAD = 2  # shards that the engine has under way
WHY = "the kernel fell over"  # says an engine that fails
BYTES = 1 << 10  # that the engine reserves for a text


@cache
def made_shards() -> dict[str, Shard]:
    return {shard.key: shard for shard in shards_of(WORLD, TEXTS)}


made_shards()  # before the fork


def planned_shards(keys: Iterable[str] = ()) -> list[PlannedShard]:
    """Return the plan of the shards of these keys, or of all."""
    return [planned(shard) for key, shard in made_shards().items() if key in (keys or made_shards())]


def sizes() -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for shard in made_shards().values():
        found.setdefault(shard.lang, []).append((len(shard.seqs), shard.tokens))
    return found


def without(shard: Shard, bad: Iterable[str], why: str) -> Shard:
    """Return what must become of a shard of which some texts are bad, by a way that joins nothing."""
    texts = dict(zip(shard.text_ids, WORLD.texts[shard.lang][int(shard.seqs[0]) :], strict=False))
    left = [text_id for text_id in shard.text_ids if text_id not in set(bad)]
    if not left:
        nothing = texts_of(shard, 0, 1)
        return replace(
            nothing,
            **{name: getattr(nothing, name)[:0] for name in ("seqs", "text_ids", "lengths", "truncated", "token_ids")},
            **{name: getattr(nothing, name)[:, :, :0] for name in ("experts", "weights")},
            profiles=nothing.profiles[:, :0],
            generated=nothing.generated[:0],
            set_aside=[FailedText.failed(int(shard.seqs[at]), text, why) for at, text in enumerate(shard.text_ids)],
        )
    made = make_shard(WORLD.record, shard.lang, shard.number, 0, [texts[text_id] for text_id in left])
    seqs = dict(zip(shard.text_ids, shard.seqs.tolist(), strict=True))
    aside = [FailedText.failed(seqs[text_id], text_id, why) for text_id in shard.text_ids if text_id not in left]
    kept = np.array([seqs[text_id] for text_id in left], dtype=np.int32)
    return replace(made, seqs=kept, set_aside=aside)


class StandInEngine:
    """What a trace asks of a TracedEngine; `breaks` is told of each text before it is run, and may raise, or worse."""

    on_cpu = True

    def __init__(self, breaks: Callable[[str, str], None]) -> None:
        self.breaks = breaks
        self.failed = False

    def trace(
        self,
        shards: Iterable[PlannedShard],
        on_tokens: Callable[[int], None] | None = None,
        generation: object = None,  # noqa: ARG002  the interface of an engine
        memory: Memory | None = None,
        token_filter: object = None,  # noqa: ARG002
        steered_by: object = None,  # noqa: ARG002
    ) -> Iterator[Shard]:
        assert not self.failed, "an engine that failed is used again"
        under_way: dict[str, PlannedShard] = {}
        try:
            for shard in shards:
                while memory and not memory.reserve(shard.key, BYTES * shard.texts, wait=not under_way):
                    yield self._finish(under_way, on_tokens)
                under_way[shard.key] = shard
                if len(under_way) == AHEAD:
                    yield self._finish(under_way, on_tokens)
            while under_way:
                yield self._finish(under_way, on_tokens)
        except BaseException:
            self.failed = True
            for key in under_way if memory is not None else ():
                memory.give_back(key)
            raise

    def _finish(self, under_way: dict[str, PlannedShard], on_tokens: Callable[[int], None] | None) -> Shard:
        shard = next(iter(under_way.values()))
        for text_id, tokens in zip(shard.text_ids, shard.token_ids, strict=True):
            with engine_failures(under_way):
                self.breaks(shard.lang, text_id)
            if on_tokens:
                on_tokens(len(tokens))
        del under_way[shard.key]
        made = made_shards()[shard.key]
        return texts_of(made, int(shard.seqs[0] - made.seqs[0]), shard.texts)


class Engines:
    """Starts stand-ins, and counts them."""

    def __init__(self, breaks: Callable[[str, str], None]) -> None:
        self.breaks = breaks
        self.started = self.open = 0

    @contextmanager
    def start(self) -> Iterator[StandInEngine]:
        self.started += 1
        assert not self.open, "two engines in a process"
        self.open += 1
        try:
            yield StandInEngine(self.breaks)
        finally:
            self.open -= 1


def traced(
    place: str | Storage,
    start: Callable[[], AbstractContextManager[StandInEngine]],
    shards: Iterable[PlannedShard] | None = None,
    settings: TraceSettings | None = None,
    progress: TraceProgress | None = None,
) -> tracing.Written:
    """Trace as `moetrace trace` does once its engine has started."""
    with RestartedEngine(start) as restarted, StoreWriter(place, WORLD.record, sizes()) as writer:
        return tracing._trace_all(
            restarted,
            writer,
            list(shards or planned_shards()),
            None,
            None,
            settings or TraceSettings(),
            progress or TraceProgress(),
        )


def trace_and_die(
    place: str, deadly: list[str], seconds: float = 0.0, after: int = -1, raising: tuple[str, ...] = ()
) -> None:
    """Trace; die of a SIGKILL where a text is one of `deadly`, or after so many texts. Each text takes some seconds."""
    tracing.WAIT = 0.02
    count = 0

    def breaks(lang: str, text_id: str) -> None:
        nonlocal count
        time.sleep(seconds)
        if f"{lang}/{text_id}" in deadly or count == after:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        if f"{lang}/{text_id}" in raising:
            raise RuntimeError(WHY)

    written = traced(place, Engines(breaks).start)
    sys.stdout.write(json.dumps({"shards": written.shards, "failed": written.failed}) + "\n")
