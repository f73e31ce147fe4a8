"""Tracing on where an engine fails or processes die: which texts are to blame is found by tracing fewer at a time.

Shards are traced side by side. Those that are under way when the engine fails, and those that a process left behind
when it died, are traced again, each alone; one that fails again is traced in halves, until single texts that fail are
known: these are set aside, with the reason, and the rest of their shard is committed. A process can note nothing when
it dies, so it notes beforehand what it tries alone (`store/storage/attempts.py`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.tracer.engine.failures import EngineFailedError
from moetrace.tracer.runs.parts import PartsMemory, failed_parts, joined, part_of, without_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from moetrace.store.format.attempts_record import AttemptsRecord, Part
    from moetrace.store.shard.shard import Shard
    from moetrace.store.write.writer import StoreWriter
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.engine.queue import Memory
    from moetrace.tracer.plan.shards import PlannedShard
    from moetrace.tracer.plan.token_filter import TokenFilter
    from moetrace.tracer.runs.engines import RestartedEngine
    from moetrace.tracer.runs.outlet import Outlet
    from moetrace.tracer.runs.progress import TraceProgress

SAFE = "what was committed is safe, the same command goes on when that is mended"


@dataclass(frozen=True)
class HowTraced:
    """What every text of a run is traced with."""

    generation: Generation | None
    token_filter: TokenFilter | None
    steered_by: Callable[[str], str | None] | None


class Retries:
    """Traces shards into a store, and what fails again and again in ever smaller parts.

    `taken`: the keys of the shards that were claimed here to trace them; what another process has is left to it.
    """

    def __init__(
        self,
        engines: RestartedEngine,
        writer: StoreWriter,
        how: HowTraced,
        open_outlet: Callable[[], Outlet],
        progress: TraceProgress,
        on_shard: Callable[[Shard], None],
    ) -> None:
        """Trace with `engines`; `on_shard` is told of each shard before `open_outlet`'s outlet writes it."""
        self.taken: set[str] = set()
        self._engines, self._writer, self._how = engines, writer, how
        self._open_outlet, self._progress, self._on_shard = open_outlet, progress, on_shard
        self._suspected: set[str] = set()
        self._largest = 1  # texts of a shard
        self._put_off: list[tuple[int, PlannedShard]] = []  # shards under suspicion, each after how many died
        self._in_a_row = 0  # failures since anything was traced
        self._unwritten: list[Shard] = []  # of which no text could be traced, while none of any other was
        self._good: tuple[PlannedShard, int] | None = None  # a text that was traced
        self._advanced = 0  # tokens of finished texts whose shards are not whole

    def trace(self, shards: Sequence[PlannedShard]) -> None:
        """Trace what nobody else has: first what nothing is known of, then, each alone, what is under suspicion.

        What fewer processes died of comes first, so that a text that kills this one too keeps nothing else waiting.
        Raises MoetraceError where the engine fails on everything that it is given, or does not start any more.
        """
        self._largest = max(planned.texts for planned in shards)
        self._suspected = self._writer.attempts.suspected()
        self._side_by_side(shards)
        suspects, self._put_off = sorted(self._put_off, key=lambda each: each[0]), []
        for _, planned in suspects:
            if self._writer.claim(planned.lang, planned.number):
                self._alone(planned)
        if self._unwritten:
            raise MoetraceError(
                f"not one text of {', '.join(shard.key for shard in self._unwritten[:3])} could be traced, nor any "
                f"other ({self._unwritten[0].set_aside[-1].reason}); {SAFE}"
            )

    def _side_by_side(self, shards: Sequence[PlannedShard]) -> None:
        """Trace shards several at a time; those that are under way when the engine fails again, each alone."""
        candidates: Iterator[PlannedShard] = iter(shards)
        while True:
            handed: dict[str, PlannedShard] = {}
            try:
                with self._open_outlet() as outlet:
                    for shard in self._traced(self._claimed(candidates, handed), outlet):
                        planned = handed.pop(shard.key)
                        self._was_traced(planned, planned.texts)
                        self._put(outlet, shard)
                        del shard  # the engine goes on: nothing may hold the arrays once they are written
            except EngineFailedError as error:
                why, under_way = error.why, error.shards
            else:
                return
            suspects = [handed.pop(key) for key in under_way if key in handed]
            self._restart(why, f"tracing {len(suspects)} shards that were under way again, one by one")
            for planned in suspects:
                self._alone(planned)
            candidates = chain(handed.values(), candidates)

    def _claimed(self, candidates: Iterable[PlannedShard], handed: dict[str, PlannedShard]) -> Iterator[PlannedShard]:
        """Yield the shards that nobody else has, and note them in `handed`; put off those under suspicion."""
        for planned in candidates:
            if not self._writer.claim(planned.lang, planned.number):
                continue
            if planned.key in self._suspected or self._writer.is_left_behind(planned.lang, planned.number):
                # Not held until its turn comes: another process may have time for it.
                record = self._writer.take_up(planned.lang, planned.number, planned.texts)
                self._writer.release(planned.lang, planned.number)
                self._put_off.append((record.deaths, planned))
                continue
            self.taken.add(planned.key)
            handed[planned.key] = planned
            yield planned

    def _alone(self, planned: PlannedShard) -> None:
        """Trace a claimed shard with nothing beside it, in parts where that is needed, and write what can be traced."""
        self.taken.add(planned.key)
        record = self._writer.take_up(planned.lang, planned.number, planned.texts)
        if record.deaths:
            died = "a process" if record.deaths == 1 else f"{record.deaths} processes"
            self._progress.stage(f"{planned.key}: {died} died while tracing it; tracing it alone")
        with self._open_outlet() as outlet:
            memory = PartsMemory(outlet)
            parts: list[Shard] = []
            failed = {part.first: part.reason for part in record.parts if part.reason is not None}
            killed = len(failed)
            waiting = deque(part for part in record.parts if part.reason is None)
            while waiting:
                part = waiting.popleft()
                found = self._tried(planned, record, part, memory)
                if not isinstance(found, str):
                    parts.append(found)
                elif part.texts == 1:
                    failed[part.first] = found
                    self._progress.stage(f"{planned.key}: text '{planned.text_ids[part.first]}' is set aside")
                    self._check_engine()
                else:
                    record = record.split(part)
                    waiting.extendleft(reversed(part.halves()))
            self._progress.advance(sum(len(planned.token_ids[at]) for at in failed))
            aside = failed_parts(planned, failed)
            if parts:
                self._put(outlet, joined(parts, aside))
                return
            shard = without_texts(planned, self._writer.record, aside)
            if len(failed) == killed or self._good is not None or self._writer.committed():
                self._put(outlet, shard)
            else:
                self._unwritten.append(shard)  # perhaps it is not the texts that are bad

    def _tried(self, planned: PlannedShard, record: AttemptsRecord, part: Part, memory: Memory) -> Shard | str:
        """Trace a part of a shard, noting it before; return it, or, where the engine failed, why."""
        texts = part_of(planned, part.first, part.texts)
        self._writer.attempts.note(replace(record, trying=record.parts.index(part)))
        try:
            (shard,) = self._traced([texts], memory)
        except EngineFailedError as error:
            why = error.why
        else:
            self._was_traced(texts, texts.texts)
            return shard
        finally:
            self._writer.attempts.note(record)  # who ends in order was not killed by these texts
        what = f"text '{texts.text_ids[0]}'" if part.texts == 1 else f"{part.texts} texts"
        self._restart(why, f"{planned.key}: {what} failed alone")
        return why

    def _put(self, outlet: Outlet, shard: Shard) -> None:
        for each in (*self._unwritten, shard):
            self._on_shard(each)
            outlet.put(each)
        self._unwritten.clear()

    def _traced(
        self, shards: Iterable[PlannedShard], memory: Memory | None, *, counting: bool = True
    ) -> Iterator[Shard]:
        how, on_tokens = self._how, self._advance if counting else None
        self._advanced = 0
        return self._engines.engine.trace(shards, on_tokens, how.generation, memory, how.token_filter, how.steered_by)

    def _advance(self, tokens: int) -> None:
        self._advanced += tokens
        self._progress.advance(tokens)

    def _was_traced(self, planned: PlannedShard, texts: int) -> None:
        self._advanced = max(self._advanced - planned.tokens, 0)
        self._in_a_row = 0
        self._good = planned, texts - 1

    def _check_engine(self) -> None:
        """Raise MoetraceError where the engine does not trace a text any more that it traced before."""
        if self._good is None:
            return
        planned, index = self._good
        try:
            for _ in self._traced([part_of(planned, index, 1)], None, counting=False):
                self._in_a_row = 0
        except EngineFailedError as error:
            raise MoetraceError(
                f"vLLM fails ({error.why}) on a text that it traced before, '{planned.text_ids[index]}' of "
                f"{planned.lang}: it is not the texts that are bad; {SAFE}"
            ) from error

    def _restart(self, why: str, then: str) -> None:
        """Start another engine in place of one that failed; raise MoetraceError where that is of no use any more."""
        self._progress.advance(-self._advanced)
        self._advanced = 0
        self._in_a_row += 1
        most = 2 * self._largest.bit_length() + 8
        if self._in_a_row > most:
            raise MoetraceError(
                f"vLLM failed {self._in_a_row} times in a row and traced nothing in between, the last time with: "
                f"{why}; {SAFE}"
            )
        self._progress.stage(f"vLLM failed ({why}); starting it again: {then}")
        self._engines.restart(why)
