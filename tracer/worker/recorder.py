"""Recording whatever an engine is asked, into a store: requests nobody planned, in shards cut as they come.

Runs in the worker, beside the model. Steps are kept as they arrive; a shard is cut for a language once its finished
requests have enough tokens, put in order, and written by a thread. NumPy and the store only: no vLLM.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.layout import LANGUAGE_NAME, SHARD_TOKENS
from moetrace.store.format.records import CommitRecord, RunRecord
from moetrace.store.read.reader import Store
from moetrace.store.shard.shard import Shard
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.worker.steps import Step, StepRows, require_written

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import NewRequestData

log = logging.getLogger(__name__)

LANGUAGE_KEY, TEXT_KEY = "moetrace_lang", "moetrace_id"  # of a request's extra_args
UNDETERMINED = "und"  # ISO 639-3 for a language nobody named
WRITES_AHEAD = 2  # shards that may wait for the disk before the engine waits for them


@dataclass(frozen=True)
class LiveSettings:
    """Where requests are recorded, and how they are cut.

    - store: the store's folder or URL; record: the run record as JSON fields, its MoE layers still to be filled in
    - lang: language of requests that name none
    - shard_tokens: finished tokens of a language that make a shard
    - flush_seconds: finished requests are written after at most about that time, also while nothing runs
    - self_check: the routing of the first step is replayed from its logits, and refused where it does not follow
    """

    store: str
    record: dict[str, Any]
    lang: str = UNDETERMINED
    shard_tokens: int = SHARD_TOKENS
    flush_seconds: float = 60.0
    self_check: bool = True


@dataclass(eq=False)
class Recorded:
    """One request under way: a text of the run, and the number of its row in what is held."""

    lang: str
    text_id: str
    prompt_tokens: int
    row: int
    done: int = 0
    finished: bool = False


@dataclass
class _Chunk:
    """Rows as one step brought them: whose they are and their positions, [n], and what was captured, [L, k, n]."""

    owners: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    token_ids: npt.NDArray[np.int32]
    experts: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]

    def only(self, kept: npt.NDArray[Any]) -> _Chunk:
        return _Chunk(
            self.owners[kept],
            self.positions[kept],
            self.token_ids[kept],
            self.experts[:, :, kept],
            self.weights[:, :, kept],
        )


class LiveRecorder:
    """A `Sink` that writes every request's routing into a run of a store."""

    def __init__(self, layout: dict[str, Any], live: dict[str, Any]) -> None:
        """Open the run; raise StoreError or RunMismatchError where it cannot be written."""
        self._live = LiveSettings(**live)
        record = RunRecord(**self._live.record)
        self._record = replace(record, model={**record.model, "moe_layers": layout["moe_layers"]})
        self._profiles = "profiles" in self._record.tables
        self._writer = StoreWriter(self._live.store, self._record)
        self._next_shard = _continued(self._live.store, self._record.run)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="moetrace-writer")
        self._pending: deque[Future[CommitRecord]] = deque()
        self._commits: list[CommitRecord] = []
        self._failure: str | None = None
        self._chunks: list[_Chunk] = []
        self._open: list[Recorded] = []
        self._sums = np.zeros((len(layout["moe_layers"]), 0, layout["num_experts"]), dtype=np.float32)
        self._texts: dict[str, Recorded] = {}  # those whose requests have not finished
        self._waiting: dict[str, int] = {}
        self._flushed = monotonic()
        self._lock = threading.RLock()  # the engine's thread adds, the timer's thread may flush
        self._closed = threading.Event()
        threading.Thread(target=self._flush_in_time, name="moetrace-flush", daemon=True).start()

    def begin(self, request: NewRequestData) -> bool:
        """Take a request as a new text; its extra arguments may name its language and id."""
        extra = (request.sampling_params.extra_args if request.sampling_params else None) or {}
        lang = str(extra.get(LANGUAGE_KEY, self._live.lang))
        if not LANGUAGE_NAME.fullmatch(lang):
            log.warning("request %s: %r cannot be a language code; recorded as %s", request.req_id, lang, UNDETERMINED)
            lang = UNDETERMINED
        with self._lock:
            text = Recorded(
                lang, str(extra.get(TEXT_KEY, request.req_id)), len(request.prompt_token_ids or ()), len(self._open)
            )
            self._open.append(text)
            self._texts[request.req_id] = text
            layers, room, experts = self._sums.shape
            if self._profiles and len(self._open) > room:
                more = np.zeros((layers, 64 + room, experts), np.float32)
                self._sums = np.concatenate([self._sums, more], axis=1)
        return True

    def add(self, step: Step, rows: StepRows) -> None:
        """Keep the rows of a step.

        Raises CaptureError where a layer was not seen, a cache answered for positions, or writing failed before.
        """
        if self._failure:
            raise CaptureError(self._failure)
        with self._lock:
            self._add(step, rows)

    def _add(self, step: Step, rows: StepRows) -> None:
        require_written(step, self._record.moe_layers)
        mine = np.array([request in self._texts for request in rows.requests])
        owners = [self._texts[request] for request in rows.requests if request in self._texts]
        starts, counts = rows.starts[mine], rows.counts[mine]
        done = np.array([owner.done for owner in owners])
        if np.any(starts > done):
            owner = owners[int(np.argmax(starts > done))]
            raise CaptureError(
                f"request {owner.text_id}: a prefix cache answered for its first positions; turn prefix caching off"
            )
        numbers = np.array([owner.row for owner in owners])
        kept = np.repeat(mine, rows.counts)
        firsts = np.cumsum(counts) - counts
        positions = np.arange(counts.sum()) + np.repeat(starts - firsts, counts)
        ids = expert_dtype(self._record.num_experts)
        self._chunks.append(
            _Chunk(
                np.repeat(numbers, counts),
                positions,
                step.token_ids[kept],
                step.experts[:, :, kept].astype(ids),
                step.weights[:, :, kept],
            )
        )
        if self._profiles and step.probability_sums is not None:
            self._sums[:, numbers[starts == 0]] = 0
            self._sums[:, numbers] += step.probability_sums[:, mine]
        for owner, end in zip(owners, (starts + counts).tolist(), strict=True):
            owner.done = end

    def end(self, request: str) -> None:
        """Mark a request as finished; cut a shard where its language has enough."""
        with self._lock:
            text = self._texts.pop(request)
            text.finished = True
            self._waiting[text.lang] = self._waiting.get(text.lang, 0) + text.done
            if self._waiting[text.lang] >= self._live.shard_tokens:
                self._flush({text.lang})

    def close(self) -> dict[str, Any]:
        """Write everything that is left; return the run, its shards, texts and tokens, and why writing failed."""
        self._closed.set()
        with self._lock:
            for text in self._open:
                text.finished = True
            self._flush({text.lang for text in self._open})
            self._collect(0)
        self._pool.shutdown()
        self._writer.close()
        return {
            "run": self._record.run,
            "shards": len(self._commits),
            "sequences": sum(commit.sequences for commit in self._commits),
            "tokens": sum(commit.tokens for commit in self._commits),
            "failure": self._failure,
        }

    def _flush_in_time(self) -> None:
        """Write finished requests now and then: an idle server takes no steps, and may be killed."""
        while not self._closed.wait(self._live.flush_seconds / 4):
            with self._lock:
                if self._waiting and monotonic() - self._flushed > self._live.flush_seconds:
                    self._flush(set(self._waiting))

    def _flush(self, languages: set[str]) -> None:
        """Cut the finished texts of some languages out of what is held, and give them to the writer."""
        self._flushed = monotonic()
        held = _joined(self._chunks)
        gone = [text for text in self._open if text.finished and text.lang in languages]
        for lang in sorted(languages):
            self._waiting.pop(lang, None)
            texts = [text for text in gone if text.lang == lang and text.done]
            if texts and held is not None:
                self._submit(self._shard(lang, texts, held))
        self._keep([text for text in self._open if not (text.finished and text.lang in languages)], held)

    def _keep(self, texts: list[Recorded], held: _Chunk | None) -> None:
        """Hold on to the texts that go on, numbered anew."""
        old = np.array([text.row for text in texts], dtype=np.intp)
        renumbered = np.full(len(self._open), -1)
        renumbered[old] = np.arange(len(old))
        self._chunks = []
        if held is not None and len(old):
            rest = held.only(np.isin(held.owners, old))
            self._chunks = [replace(rest, owners=renumbered[rest.owners])]
        if self._profiles:
            self._sums = self._sums[:, old]
        for row, text in enumerate(texts):
            text.row = row
        self._open = texts

    def _shard(self, lang: str, texts: list[Recorded], held: _Chunk) -> Shard:
        """Return finished texts as a shard: position after position, what was computed twice taken once."""
        rows = np.array([text.row for text in texts])
        rank = np.full(len(self._open), -1)
        rank[rows] = np.arange(len(rows))
        mine = np.flatnonzero(rank[held.owners] >= 0)
        order = mine[np.lexsort((mine, held.positions[mine], rank[held.owners[mine]]))]
        owner, position = rank[held.owners[order]], held.positions[order]
        last = np.append((owner[1:] != owner[:-1]) | (position[1:] != position[:-1]), True)
        done = np.array([text.done for text in texts])
        order = order[last & (position < done[owner])]
        chunk = held.only(order)
        lengths = done.astype(np.int32)
        number = self._claimed_number(lang)
        first = number * self._live.shard_tokens  # a shard has fewer texts than tokens: other writers' numbers are free
        prompts = np.array([text.prompt_tokens for text in texts])
        profiles = None
        if self._profiles:
            profiles = self._sums[:, rows]
            profiles /= lengths.astype(np.float32)[:, None]
        return Shard(
            lang=lang,
            number=number,
            seqs=np.arange(first, first + len(texts), dtype=np.int32),
            text_ids=[text.text_id for text in texts],
            lengths=lengths,
            truncated=done < prompts,
            token_ids=chunk.token_ids,
            experts=chunk.experts,
            weights=chunk.weights,
            profiles=profiles,
            generated=np.maximum(done - prompts, 0).astype(np.int32),
        )

    def _claimed_number(self, lang: str) -> int:
        """Return the number of a new shard, which no other process that records into the run will use."""
        number = self._next_shard.get(lang, 0)
        while not self._writer.claim(lang, number):
            number += 1
        self._next_shard[lang] = number + 1
        return number

    def _submit(self, shard: Shard) -> None:
        self._pending.append(self._pool.submit(self._writer.write, shard))
        self._collect(WRITES_AHEAD)

    def _collect(self, ahead: int) -> None:
        """Wait until at most `ahead` shards are being written; remember the first failure."""
        while len(self._pending) > ahead:
            try:
                self._commits.append(self._pending.popleft().result())
            except MoetraceError as error:
                self._failure = self._failure or str(error)


def _joined(chunks: list[_Chunk]) -> _Chunk | None:
    if not chunks:
        return None
    return _Chunk(
        np.concatenate([chunk.owners for chunk in chunks]),
        np.concatenate([chunk.positions for chunk in chunks]),
        np.concatenate([chunk.token_ids for chunk in chunks]),
        np.concatenate([chunk.experts for chunk in chunks], axis=2),
        np.concatenate([chunk.weights for chunk in chunks], axis=2),
    )


def _continued(store: str, run: str) -> dict[str, int]:
    """Return for each language the number of the next shard of a run."""
    shards: dict[str, int] = {}
    for commit in Store(store).commits:
        if commit.run == run:
            shards[commit.lang] = max(shards.get(commit.lang, 0), commit.shard + 1)
    return shards
