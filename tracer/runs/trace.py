"""Tracing a corpus into a store: plan, engine, writer; what is committed is skipped."""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol

from moetrace.store.errors import MoetraceError
from moetrace.store.format.layout import FORMAT, checked_run
from moetrace.store.format.records import CommitRecord, RunRecord
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.format.weights import MANTISSA_BITS, lossless_precision
from moetrace.store.read.reader import Store
from moetrace.store.storage.storage import Storage, open_storage
from moetrace.store.write.writer import StoreWriter, open_or_create
from moetrace.tracer.corpus.corpus import open_corpus
from moetrace.tracer.engine.engine import EngineSettings, TracedEngine, engine_versions, require_engine
from moetrace.tracer.engine.generation import Generation
from moetrace.tracer.model.facts import ModelFacts, read_facts
from moetrace.tracer.model.record import model_record, provenance
from moetrace.tracer.model.tokenizer import load_tokenizer
from moetrace.tracer.plan.plan import Plan, PlannedShard, make_plan
from moetrace.tracer.plan.prompts import PromptSettings, encoder, stop_tokens
from moetrace.tracer.runs.outlet import MemoryBudget

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from moetrace.store.shard.shard import Shard

log = logging.getLogger(__name__)

WAIT = 1.0  # seconds between looks at what other processes are tracing
DEFAULT_MEMORY = 2 * 2**30  # bytes of captured shards in memory, unless --max-memory says otherwise


@dataclass(frozen=True)
class TraceSettings:
    """What is traced and how it is kept; everything but `max_memory` (bytes) is part of the run record."""

    languages: tuple[str, ...] = ()
    pivot: str | None = None
    limit: int | None = None
    sample: int | None = None
    sample_seed: int = 0
    text_template: str | None = None
    id_template: str | None = None
    shard_tokens: int = 32768
    on_long: str = "truncate"
    weight_precision: str = "auto"
    routes: bool = True
    max_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    prompt: PromptSettings = field(default_factory=PromptSettings)
    max_memory: int | None = None
    engine: EngineSettings = field(default_factory=EngineSettings)

    def tables(self) -> list[str]:
        """Return the names of the tables that the run has."""
        left_out = {"routes": self.routes, "profiles": self.engine.profiles}
        return [name for name in TABLE_NAMES if left_out.get(name, True)]


class Progress(Protocol):
    """What a caller may watch; `Silent` watches nothing."""

    def stage(self, message: str) -> None:
        """Say what is being done now."""

    def planned(self, plan: Plan, skipped_tokens: int) -> None:
        """Say what there is to do, and how much of it the store has already."""

    def tokens(self, count: int) -> None:
        """Say that `count` more tokens were traced."""

    def committed(self, commit: CommitRecord) -> None:
        """Say that a shard is in the store."""


@dataclass(frozen=True)
class TraceResult:
    """What a trace did: shards and tokens written now, those that were there before, and the time it took."""

    run: str
    plan: Plan
    written_shards: int
    written_tokens: int
    skipped_shards: int
    seconds: float


def trace(
    model: str,
    corpus: str,
    store: str | Path,
    *,
    run: str | None = None,
    revision: str | None = None,
    settings: TraceSettings | None = None,
    progress: Progress | None = None,
) -> TraceResult:
    """Trace `corpus` through `model` into `store`; shards that the store has are not traced again.

    Raises MoetraceError children: no such model or not a MoE, a bad corpus, a store with another run of this name,
    a capture that is not a routing trace. Whatever is raised, shards committed before stay.
    """
    settings = settings or TraceSettings()
    watch = progress or Silent()
    require_engine()
    _check_precision(settings.weight_precision)
    opened = open_corpus(corpus, text_template=settings.text_template, id_template=settings.id_template)
    opened = opened.only(settings.languages)
    watch.stage(f"reading {model}")
    facts = read_facts(model, revision)
    name = checked_run(run or _default_run(model, corpus))
    storage = open_storage(store)
    stored = _stored_run(storage, name)

    watch.stage(f"tokenising {opened.source}")
    tokenizer = load_tokenizer(facts)
    engine_settings = replace(settings.engine, max_model_len=_model_length(facts, settings.engine))
    settings = replace(settings, engine=engine_settings)
    generation = _generation(settings, facts, tokenizer)
    if settings.sample is not None:
        opened = opened.sample(settings.sample, settings.sample_seed)
    plan = make_plan(
        opened,
        encoder(tokenizer, settings.prompt, answered=generation is not None),
        shard_tokens=settings.shard_tokens,
        window=_window(settings),
        on_long=settings.on_long,
        pivot=settings.pivot,
        limit=settings.limit,
    )
    record = _record(name, facts, tokenizer, opened.source, plan, settings)
    writer: StoreWriter | None = None
    if stored is not None:
        # Refuse, or find nothing to do, before an engine is started; what only the engine knows is checked below.
        grid = _grid_of(stored) if settings.weight_precision == "auto" else _grid(settings.weight_precision)
        dtype = stored.model["dtype"] if engine_settings.dtype == "auto" else engine_settings.dtype
        writer = StoreWriter(storage, _with_engine_facts(record, stored.moe_layers, dtype, grid))
    done = writer.committed() if writer else frozenset()
    todo = [shard for shard in plan.shards if shard.key not in done]
    watch.planned(plan, plan.tokens - sum(shard.tokens for shard in todo))
    started = monotonic()
    if todo:
        open_or_create(storage)  # what cannot be written should not cost an engine's start
        watch.stage(f"starting the engine for {model}")
        engine = TracedEngine(facts, engine_settings)
        try:
            watch.stage("tracing")
            grid = _captured_grid(engine, settings.weight_precision)
            with StoreWriter(storage, _with_engine_facts(record, engine.moe_layers, engine.dtype, grid)) as writer:
                todo = _trace_all(engine, writer, todo, watch, generation, settings.max_memory or DEFAULT_MEMORY)
        finally:
            engine.close()
    return TraceResult(
        name, plan, len(todo), sum(shard.tokens for shard in todo), len(plan.shards) - len(todo), monotonic() - started
    )


def _trace_all(
    engine: TracedEngine,
    writer: StoreWriter,
    shards: Sequence[PlannedShard],
    watch: Progress,
    generation: Generation | None,
    max_memory: int,
) -> list[PlannedShard]:
    """Trace shards until the store has them all, and return those that were traced here.

    Other processes may be tracing the same run: what one of them has claimed is left to it, and waited for, so that a
    trace that ends well is a whole one; it is traced here if that process dies.
    """
    mine: list[PlannedShard] = []

    def claimed(candidates: Sequence[PlannedShard]) -> Iterator[PlannedShard]:
        for shard in candidates:
            if writer.claim(shard.lang, shard.number):
                mine.append(shard)
                yield shard

    left, said = list(shards), False
    while left:
        before, budget = len(mine), MemoryBudget(max_memory)
        traced = engine.trace(claimed(left), watch.tokens, generation, budget)
        write_all(writer, traced, watch, budget, beside=not engine.on_cpu)
        done, own = writer.committed(), {shard.key for shard in mine}
        watch.tokens(sum(shard.tokens for shard in left if shard.key in done - own))
        left = [shard for shard in left if shard.key not in done]
        if left and len(mine) == before:
            if not said:
                watch.stage(f"waiting for {len(left)} shards that another process is tracing")
            said = True
            sleep(WAIT)
    return mine


def write_all(
    writer: StoreWriter,
    shards: Iterator[Shard],
    watch: Progress,
    budget: MemoryBudget | None = None,
    *,
    beside: bool = True,
) -> None:
    """Write shards as they come; on any error what was handed over before is still written.

    With `beside` a thread writes while the engine runs. An engine that computes on the CPU would wait, in every one of
    its parallel loops, for the core that the thread has: there the engine pauses, and all cores write a shard each.
    A shard's bytes go back to the budget once it is committed, which is what lets the engine begin another.
    """
    threads = 1 if beside else len(os.sched_getaffinity(0))
    held: list[Shard] = []
    pending: deque[Future[CommitRecord]] = deque()

    def write(shard: Shard) -> CommitRecord:
        try:
            return writer.write(shard)
        finally:
            if budget is not None:
                budget.give_back(shard.key)

    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="moetrace-writer") as pool:

        def begin() -> None:
            pending.extend(pool.submit(write, shard) for shard in held)
            held.clear()

        def report(*, wait: bool) -> None:
            while pending and (wait or pending[0].done()):
                watch.committed(pending.popleft().result())

        if budget is not None:
            budget.relief = begin
        try:
            for shard in shards:
                held.append(shard)
                del shard
                if len(held) >= threads:
                    begin()
                report(wait=not beside and not held)
        finally:
            begin()
            report(wait=True)


def _generation(settings: TraceSettings, facts: ModelFacts, tokenizer: PreTrainedTokenizerBase) -> Generation | None:
    if not settings.max_new_tokens:
        return None
    return Generation(
        max_new_tokens=settings.max_new_tokens,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        stop=stop_tokens(tokenizer, facts.id, facts.revision),
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )


def _window(settings: TraceSettings) -> int:
    """Return the tokens that a text may have: what is left after generated tokens, and one that is sampled."""
    length = settings.engine.max_model_len or 0
    window = length - 1 - settings.max_new_tokens
    if window < 1:
        raise MoetraceError(
            f"--max-new-tokens {settings.max_new_tokens} leaves no room for a text in {length} tokens; lower it"
        )
    return window


def _captured_grid(engine: TracedEngine, asked: str) -> dict[str, Any]:
    """Return the grid that weights are rounded to.

    `auto` is the bf16 grid where the weights of the engine's probe lie on it (the store then refuses any that do not),
    else the f16 grid.
    """
    if asked != "auto":
        return _grid(asked)
    precision = lossless_precision(engine.probe.weights)
    return _grid(precision, exact=precision == "bf16")


def _grid(precision: str, *, exact: bool = False) -> dict[str, Any]:
    return {"weight_precision": precision, "weight_precision_exact": exact}


def _grid_of(record: RunRecord) -> dict[str, Any]:
    return {name: record.settings[name] for name in _grid("")}


def _record(
    run: str,
    facts: ModelFacts,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    plan: Plan,
    settings: TraceSettings,
) -> RunRecord:
    return RunRecord(
        run=run,
        model=model_record(facts, tokenizer),
        routing=asdict(facts.rule),
        corpus=plan.corpus_record(),
        settings={
            "shard_tokens": settings.shard_tokens,
            "limit": settings.limit,
            "on_long": settings.on_long,
            "tables": settings.tables(),
            "prompt": settings.prompt.record(),
            "generation": _generation_record(settings),
            "engine": settings.engine.record(),
            "versions": engine_versions(),
        },
        provenance=provenance(facts.id, source),
    )


def _generation_record(settings: TraceSettings) -> dict[str, Any] | None:
    if not settings.max_new_tokens:
        return None
    return {name: getattr(settings, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}


def _with_engine_facts(record: RunRecord, moe_layers: list[int], dtype: str, grid: dict[str, Any]) -> RunRecord:
    """Return the record with what only a running engine knows."""
    return replace(
        record,
        model={**record.model, "moe_layers": moe_layers, "dtype": dtype},
        settings={**record.settings, **grid},
    )


def _stored_run(storage: Storage, name: str) -> RunRecord | None:
    return Store(storage).runs.get(name) if storage.has(FORMAT) else None


def _model_length(facts: ModelFacts, engine: EngineSettings) -> int:
    """Return vLLM's max_model_len: the window asked for (the model's own by default), checked against the model's."""
    asked = engine.max_model_len or facts.window
    if not 2 <= asked <= facts.window:
        raise MoetraceError(f"--max-model-len {asked}: {facts.id} takes 2 to {facts.window} tokens")
    return asked


def _check_precision(precision: str) -> None:
    if precision != "auto" and precision not in MANTISSA_BITS:
        raise MoetraceError(f"--weight-precision {precision}: choose auto, {', '.join(MANTISSA_BITS)}")


def _default_run(model: str, corpus: str) -> str:
    names = (Path(model.rstrip("/")).name, Path(corpus.removeprefix("hf:").split(":")[0].rstrip("/")).stem)
    return "-".join(re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") for name in names)[:128]


class Silent:
    """A Progress that says nothing."""

    def stage(self, message: str) -> None:
        """Log it."""
        log.info(message)

    def planned(self, plan: Plan, skipped_tokens: int) -> None:
        """Say nothing."""

    def tokens(self, count: int) -> None:
        """Say nothing."""

    def committed(self, commit: CommitRecord) -> None:
        """Say nothing."""
