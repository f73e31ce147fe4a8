"""Recording whatever an engine is asked, into a store: requests nobody planned, in shards cut as they come.

Runs in the worker, beside the model. Rows are held as they arrive; a shard is cut for a language once its finished
requests have enough tokens, and written by a thread. NumPy and the store only: no vLLM.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.format.layout import LANGUAGE_NAME, SHARD_TOKENS
from moetrace.store.format.records import CommitRecord, RunRecord
from moetrace.store.read.reader import Store
from moetrace.store.shard.shard import Shard
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.worker.held import HeldRows, HeldText

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.v1.core.sched.output import NewRequestData

    from moetrace.tracer.worker.steps import KeptRows, Step, StepRows

log = logging.getLogger(__name__)

LANGUAGE_KEY, TEXT_KEY = "moetrace_lang", "moetrace_id"  # of a request's extra_args
UNDETERMINED = "und"  # ISO 639-3 for a language nobody named
WRITES_AHEAD = 2  # shards that may wait for the disk before the engine waits for them


@dataclass(frozen=True)
class RecordingSettings:
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


class RequestRecorder:
    """A `Sink` that writes every request's routing into a run of a store."""

    def __init__(self, layout: dict[str, Any], recording: dict[str, Any]) -> None:
        """Open the run; raise StoreError or RunMismatchError where it cannot be written.

        layout: what was tapped (`WorkerTap.layout`); recording: the fields of `RecordingSettings`.
        """
        self._settings = RecordingSettings(**recording)
        record = RunRecord(**self._settings.record)
        self._record = replace(record, model={**record.model, "moe_layers": layout["moe_layers"]})
        self._writer = StoreWriter(self._settings.store, self._record)
        self._next_shard = _next_shards(self._settings.store, self._record.run)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="moetrace-writer")
        self._writing: deque[Future[CommitRecord]] = deque()
        self._commits: list[CommitRecord] = []
        self._failure: str | None = None
        profiles = "profiles" in self._record.tables
        self._held = HeldRows(layout["moe_layers"], layout["num_experts"], profiles=profiles)
        self._running: dict[str, HeldText] = {}  # by request
        self._waiting: dict[str, int] = {}  # tokens of finished texts, by language
        self._flushed = monotonic()
        self._lock = threading.RLock()  # the engine's thread adds, the timer's thread may flush
        self._closed = threading.Event()
        threading.Thread(target=self._flush_in_time, name="moetrace-flush", daemon=True).start()

    def begin(self, request: NewRequestData) -> bool:
        """Take a request as a new text; its extra arguments may name its language and id."""
        extra = (request.sampling_params.extra_args if request.sampling_params else None) or {}
        lang = str(extra.get(LANGUAGE_KEY, self._settings.lang))
        if not LANGUAGE_NAME.fullmatch(lang):
            log.warning("request %s: %r cannot be a language code; recorded as %s", request.req_id, lang, UNDETERMINED)
            lang = UNDETERMINED
        text = HeldText(lang, str(extra.get(TEXT_KEY, request.req_id)), len(request.prompt_token_ids or ()))
        with self._lock:
            self._running[request.req_id] = text
            self._held.begin(text)
        return True

    def kept(self, rows: StepRows) -> KeptRows | None:  # noqa: ARG002  a recording has no filters
        """Tell that every row counts."""
        return None

    def add(self, step: Step, rows: StepRows) -> None:
        """Hold the rows of a step.

        Raises CaptureError where a layer was not seen, a cache answered for positions, or writing failed before.
        """
        if self._failure:
            raise CaptureError(self._failure)
        with self._lock:
            self._held.add(step, rows, [self._running.get(request) for request in rows.requests])

    def end(self, request: str) -> None:
        """Mark a request as finished; cut a shard where its language has enough."""
        with self._lock:
            text = self._running.pop(request)
            text.finished = True
            self._waiting[text.lang] = self._waiting.get(text.lang, 0) + text.captured
            if self._waiting[text.lang] >= self._settings.shard_tokens:
                self._flush({text.lang})

    def close(self) -> dict[str, Any]:
        """Write everything that is left; return the run, its shards, texts and tokens, and why writing failed."""
        self._closed.set()
        with self._lock:
            for text in self._held.texts:
                text.finished = True
            self._flush({text.lang for text in self._held.texts})
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
        while not self._closed.wait(self._settings.flush_seconds / 4):
            with self._lock:
                if self._waiting and monotonic() - self._flushed > self._settings.flush_seconds:
                    self._flush(set(self._waiting))

    def _flush(self, languages: set[str]) -> None:
        """Cut the finished texts of some languages out of what is held, and give them to the writer."""
        self._flushed = monotonic()
        finished = [text for text in self._held.texts if text.finished and text.lang in languages]
        for lang in sorted(languages):
            self._waiting.pop(lang, None)
            texts = [text for text in finished if text.lang == lang and text.captured]
            if texts:
                self._write(self._shard(lang, texts))
        self._held.drop(finished)

    def _shard(self, lang: str, texts: list[HeldText]) -> Shard:
        cut, number = self._held.cut(texts), self._claimed_number(lang)
        first = number * self._settings.shard_tokens  # fewer texts than tokens: other writers' numbers are free
        prompts = np.array([text.prompt_tokens for text in texts])
        return Shard(
            lang=lang,
            number=number,
            seqs=np.arange(first, first + len(texts), dtype=np.int32),
            text_ids=[text.text_id for text in texts],
            lengths=cut.lengths,
            truncated=cut.lengths < prompts,
            token_ids=cut.token_ids,
            experts=cut.experts,
            weights=cut.weights,
            profiles=cut.profiles,
            generated=np.maximum(cut.lengths - prompts, 0).astype(np.int32),
        )

    def _claimed_number(self, lang: str) -> int:
        """Return the number of a new shard, which no other process that records into the run will use."""
        number = self._next_shard.get(lang, 0)
        while not self._writer.claim(lang, number):
            number += 1
        self._next_shard[lang] = number + 1
        return number

    def _write(self, shard: Shard) -> None:
        if self._closed.is_set():  # maybe by an interpreter that ends, which starts no thread any more
            self._collect(0)
            self._commit(partial(self._writer.write, shard))
            return
        self._writing.append(self._pool.submit(self._writer.write, shard))
        self._collect(WRITES_AHEAD)

    def _collect(self, ahead: int) -> None:
        """Wait until at most `ahead` shards are being written."""
        while len(self._writing) > ahead:
            self._commit(self._writing.popleft().result)

    def _commit(self, written: Callable[[], CommitRecord]) -> None:
        """Take what a shard's writing came to; remember the first failure."""
        try:
            self._commits.append(written())
        except MoetraceError as error:
            self._failure = self._failure or str(error)


def _next_shards(store: str, run: str) -> dict[str, int]:
    """Return for each language the number of the next shard of a run."""
    shards: dict[str, int] = {}
    for commit in Store(store).commits:
        if commit.run == run:
            shards[commit.lang] = max(shards.get(commit.lang, 0), commit.shard + 1)
    return shards
