"""Starting vLLM with the tap: the arguments of `vllm.LLM`, what is refused beforehand, errors in one line."""

from __future__ import annotations

import os
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.tracer.engine.cpu_options import cpu_options, spread_over_cores
from moetrace.tracer.engine.settings import require_engine
from moetrace.tracer.worker import TAG, TRACED_WORKER
from moetrace.tracer.worker.contacts import require_contacts
from moetrace.tracer.worker.modes import DATA_PARALLEL, SPECULATIVE

if TYPE_CHECKING:
    from vllm import LLM

    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import ModelFacts

# What vLLM raises, as far as seen, where it does not have, or cannot run, what a model needs on this machine.
ENGINE_ERRORS = (AssertionError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def start_engine(facts: ModelFacts, settings: EngineSettings) -> tuple[LLM, dict[str, Any]]:
    """Start vLLM with a tap in every worker; return it, and the arguments it was made with.

    In this process unless VLLM_ENABLE_V1_MULTIPROCESSING says otherwise. Raises MoetraceError where it does not start.
    """
    require_engine()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        arguments = engine_arguments(facts, settings)
        from vllm import LLM  # noqa: PLC0415  ten seconds to import: only where a model is run

        return LLM(**arguments), arguments
    except ENGINE_ERRORS as error:
        raise MoetraceError(f"{facts.id}: vLLM could not start it ({first_line(error)})") from error


def engine_arguments(facts: ModelFacts, settings: EngineSettings) -> dict[str, Any]:
    """Return the arguments of vllm.LLM; raise MoetraceError for what cannot be traced."""
    require_contacts()
    from vllm.platforms import current_platform  # noqa: PLC0415  ten seconds to import: only where a model is run

    on_cpu = current_platform.is_cpu()
    worker: dict[str, Any] = {"scoring": facts.rule.scoring, "profiles": settings.profiles}
    if settings.steering:
        worker["steering"] = {"rule": asdict(facts.rule)}
    if on_cpu:
        spread_over_cores(settings)
    # On a CPU vLLM reserves most of the memory by default; prefill of a few thousand tokens needs little.
    kv_cache_gib = settings.kv_cache_gib or (1.0 if on_cpu else None)
    options: dict[str, Any] = {
        "model": facts.id,
        "revision": facts.revision,
        "skip_tokenizer_init": True,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "enable_expert_parallel": settings.expert_parallel,
        "enforce_eager": settings.eager,
        "enable_prefix_caching": settings.prefix_caching,
        "kv_cache_memory_bytes": None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        "use_tqdm_on_load": False,
        "worker_cls": TRACED_WORKER,
        "additional_config": {TAG: worker},
        "disable_log_stats": True,
        "seed": 0,
    }
    if on_cpu:
        options |= cpu_options(facts, settings.dtype, eager=settings.eager)
    options |= settings.options
    if int(options.get("data_parallel_size", 1)) > 1:
        raise MoetraceError(f"cannot trace with {DATA_PARALLEL}")
    if options.get("speculative_config"):
        raise MoetraceError(f"cannot trace with {SPECULATIVE}")
    return options


def first_line(error: Exception) -> str:
    """Return the first line of an error of the engine, and how to see more."""
    return f"{what_it_says(error)}; moetrace -v shows more"


def what_it_says(error: Exception) -> str:
    """Return the first line of an error of the engine; of one without words, the code that raised it."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}: {last.line}"
