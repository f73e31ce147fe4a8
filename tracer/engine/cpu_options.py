"""What vLLM 0.32 must be told on a CPU to compute what the model says, and how its workers share the cores.

What cannot be told, `tracer/worker/cpu_fixes.py` sets right in the worker. Each was found by comparing vLLM's layers
with transformers'; tests/end_to_end/test_families.py shows that together they suffice.

- The CPU kernel of plain rotary embeddings takes a query of shape [tokens, heads, size] for `tokens` rows of one head:
  of the flattened [tokens x heads], row i gets position i and rows from `tokens` on get none. Models that pass such
  queries (LFM2; DeepSeek-V2 and V3 without YaRN, whose embedding is another) attend wrongly from the second token on,
  in every dtype. Compiled engines do not use the kernel; eager ones are told to rotate by PyTorch operations.
- On CPUs with AMX, vLLM picks an attention for multi-head latent attention that takes bfloat16 only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.families import FAMILIES

if TYPE_CHECKING:
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import ModelFacts

ROTATES_BY_HEAD = {"deepseek_v2", "deepseek_v3", "lfm2_moe"}


def cpu_options(facts: ModelFacts, dtype: str, *, eager: bool) -> dict[str, Any]:
    """Return the arguments of vllm.LLM that an engine of this model needs on a CPU."""
    options: dict[str, Any] = {}
    if eager and (facts.family in ROTATES_BY_HEAD or facts.family not in FAMILIES):
        options["compilation_config"] = {"custom_ops": ["all", "-rotary_embedding"]}
    if facts.latent_attention and dtype != "bfloat16":
        options["attention_backend"] = "CPU_MLA"
    return options


def spread_over_cores(settings: EngineSettings) -> None:
    """Give each worker its share of the cores; raise MoetraceError for what vLLM's CPU backend cannot do.

    vLLM binds a worker to a NUMA node by itself, and refuses more workers than nodes.
    """
    if settings.expert_parallel:
        raise MoetraceError(
            "--expert-parallel: vLLM's MoE kernel for CPUs ignores which experts are local and crashes; leave it out"
        )
    workers = settings.tensor_parallel_size * settings.pipeline_parallel_size
    if workers > 1:
        cores = sorted(os.sched_getaffinity(0))
        shares = [cores[rank::workers] or [cores[rank % len(cores)]] for rank in range(workers)]
        bound = "|".join(",".join(map(str, share)) for share in shares)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", bound)
