"""Tracing an engine that somebody else made: `with traced(llm) as trace:`, and `vllm serve` through the plugin."""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.format.layout import SHARD_TOKENS, checked_language, checked_run
from moetrace.store.format.run_record import made_here, make_run_record, with_engine_facts
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.tracer.engine.commands import tell_workers
from moetrace.tracer.engine.settings import engine_versions
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.model.record import model_id, model_record
from moetrace.tracer.model.tokenizer import load_tokenizer, special_token_ids
from moetrace.tracer.worker import TAG, TRACED_WORKER
from moetrace.tracer.worker.contacts import require_contacts
from moetrace.tracer.worker.modes import is_compiled
from moetrace.tracer.worker.recorder import LANGUAGE_KEY, TEXT_KEY, UNDETERMINED, RecordingSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vllm import LLM
    from vllm.config import VllmConfig

    from moetrace.store.format.records import RunRecord
    from moetrace.tracer.model.facts import ModelFacts

log = logging.getLogger(__name__)


@dataclass
class Trace:
    """A recording under way; `language` and `text_id` label the requests that are added from now on.

    After the `with` block: shards, sequences and tokens that were written to run `run` of the store at `store`.
    """

    store: str
    run: str
    language: str = UNDETERMINED
    text_id: Callable[[str], str] | None = None
    shards: int = 0
    sequences: int = 0
    tokens: int = 0
    _scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)


@contextmanager
def traced(
    llm: LLM,
    store: str | Path | None = None,
    *,
    run: str | None = None,
    language: str = UNDETERMINED,
    profiles: bool = True,
    weight_precision: str = "f16",
    shard_tokens: int = SHARD_TOKENS,
    self_check: bool = True,
    steering: dict[str, Any] | None = None,
) -> Iterator[Trace]:
    """Record the routing of every request that `llm` runs inside the block into a run of a store.

    Without `store` a scratch store is made that lives as long as the trace object. Requests are labelled with
    `trace.language`, which may change between calls of `generate`; prompts are told apart by `trace.text_id(request)`
    or their request's own id. Prefix caching stays on, but traced requests do not read from it.

    An engine that compiles or captures graphs must have been made with `LLM(model, **tap_arguments(model))`: a tap that
    comes later would see nothing, and is refused.

    steering: what the run record says of how the requests are steered, which is part of the run's identity

    Raises MoetraceError where the engine cannot be tapped; CaptureError where anything was not captured, or where,
    unless the self-check is off, the first step was not routed as the model's family says.
    """
    require_contacts()
    config = llm.llm_engine.vllm_config
    scratch = tempfile.TemporaryDirectory(prefix="moetrace-") if store is None else None
    where = scratch.name if scratch else str(store)
    record = requests_record(
        config,
        run,
        where,
        profiles=profiles,
        weight_precision=weight_precision,
        shard_tokens=shard_tokens,
        self_check=self_check,
        steering=steering,
    )
    mine = _install(llm, config, profiles=profiles)
    recording = RecordingSettings(
        where, asdict(record), checked_language(language), shard_tokens, self_check=self_check
    )
    try:
        _call(llm, "start_recording", asdict(recording))
        trace = Trace(where, record.run, language, _scratch=scratch)
        unlabelled = _label_requests(llm, trace)
        try:
            yield trace
        finally:
            unlabelled()
            (summary,) = _call(llm, "stop_recording")
    finally:
        if mine:
            _call(llm, "uninstall")
    if summary["failure"]:
        raise CaptureError(summary["failure"])
    trace.shards, trace.sequences, trace.tokens = summary["shards"], summary["sequences"], summary["tokens"]


def tap_arguments(
    model: str, revision: str | None = None, *, profiles: bool = True, steering: bool = False, tracing: bool = True
) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM` for an engine of `model` that is tapped from its start, compiled or not.

    steering: its requests can be steered as well (`steered`); tracing: False where they are to be steered alone
    """
    rule = read_facts(model, revision).rule
    options: dict[str, Any] = {"scoring": rule.scoring, "profiles": profiles} if tracing else {}
    if steering:
        options["steering"] = {"rule": asdict(rule)}
    return {"worker_cls": TRACED_WORKER, "additional_config": {TAG: options}}


def requests_record(
    config: VllmConfig,
    run: str | None,
    store: str,
    *,
    profiles: bool,
    weight_precision: str,
    shard_tokens: int,
    self_check: bool,
    steering: dict[str, Any] | None = None,
) -> RunRecord:
    """Return the record of a run whose texts nobody knows beforehand; its MoE layers are the tap's to fill in.

    steering: the digests of the interventions that requests may name, and which is the default; None where none may

    Raises MoetraceError where the model is not a Mixture-of-Experts model or the engine is spread over pipeline stages.
    """
    if config.parallel_config.pipeline_parallel_size > 1:
        raise MoetraceError("requests of an engine with pipeline stages cannot be recorded; use `moetrace trace`")
    model = config.model_config
    facts = read_facts(str(model.model), model.revision)
    left_out = set() if profiles else {"profiles"}
    record = make_run_record(
        checked_run(run or f"{model_id(facts.id).rpartition('/')[2]}-live"),
        model={**model_record(facts, None), **_special_tokens(config, facts)},
        routing=asdict(facts.rule),
        corpus={"sha256": None, "languages": [], "pivot": None, "texts": {}, "tokens": {}, "shards": {}},
        settings={
            "tables": [name for name in TABLE_NAMES if name not in left_out],
            "shard_tokens": shard_tokens,
            "weight_precision": weight_precision,
            "weight_precision_exact": False,
            "engine": {
                "max_model_len": model.max_model_len,
                "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
                "eager": bool(model.enforce_eager),
                "self_check": self_check,
            },
            **({"steering": steering} if steering else {}),
            "versions": engine_versions(),
        },
        provenance=made_here(facts.id, f"requests, recorded into {store.rpartition('/')[2]}"),
    )
    return with_engine_facts(record, {"dtype": str(model.dtype).removeprefix("torch."), "moe_layers": []})


def _special_tokens(config: VllmConfig, facts: ModelFacts) -> dict[str, Any]:
    """Return what a run record says of the special tokens of the engine's tokenizer; nothing where none can be read.

    The digest of the tokenizer is left out: nobody knows whether a client's token ids are of it.
    """
    model = config.model_config
    named = replace(facts, id=str(model.tokenizer), revision=model.tokenizer_revision)
    try:
        return {"special_token_ids": special_token_ids(load_tokenizer(named))}
    except (MoetraceError, ImportError) as error:
        log.info("special tokens are not recorded: %s", error)
        return {}


def _install(llm: LLM, config: VllmConfig, *, profiles: bool) -> bool:
    """Make sure that there is a tap; tell whether it was put there now."""
    if any(_call(llm, "layout")):
        options = (config.additional_config or {}).get(TAG, {})
        if profiles and not options.get("profiles", True):
            raise MoetraceError("this engine's tap was made without profiles: traced(llm, profiles=False)")
        return False
    if is_compiled(config):
        raise MoetraceError(
            "this engine is compiled, a tap that comes now would see nothing: make it with enforce_eager=True, or as "
            "LLM(model, **moetrace.tap_arguments(model))"
        )
    facts = read_facts(str(config.model_config.model), config.model_config.revision)
    _call(llm, "install", {"scoring": facts.rule.scoring, "profiles": profiles})
    return True


def _call(llm: LLM, command: str, *arguments: Any) -> list[Any]:
    """Give a command to every worker's tap; raise MoetraceError where the workers know of none."""
    try:
        return tell_workers(llm, command, *arguments)
    except (AttributeError, NotImplementedError) as error:
        raise MoetraceError(
            "this engine's workers do not know moetrace: it must be installed where they run, with its vLLM plugin on "
            "(VLLM_PLUGINS, where set, must name moetrace)"
        ) from error


def _label_requests(llm: LLM, trace: Trace) -> Callable[[], None]:
    """Let added requests carry the trace's labels and leave the prefix cache alone; return what undoes it."""
    engine = llm.llm_engine
    add_request = engine.add_request

    def add_labelled(request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> str:
        params = params.clone()
        params.skip_reading_prefix_cache = True
        labels = {LANGUAGE_KEY: trace.language}
        if trace.text_id is not None:
            labels[TEXT_KEY] = trace.text_id(request_id)
        params.extra_args = {**labels, **(params.extra_args or {})}
        added: str = add_request(request_id, prompt, params, *args, **kwargs)
        return added

    engine.add_request = add_labelled

    def undo() -> None:
        del engine.add_request  # the class's own method is back

    return undo
