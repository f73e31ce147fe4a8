"""What vLLM 0.32 needs on a CPU to compute what the model says: options of the engine, and routers set right.

Each was found by comparing vLLM's layers with transformers'; tests/end_to_end/test_families.py shows that they suffice.

- The CPU kernel of plain rotary embeddings takes a query of shape [tokens, heads, size] for `tokens` rows of one head:
  of the flattened [tokens x heads], row i gets position i and rows from `tokens` on get none. Models that pass such
  queries (LFM2; DeepSeek-V2 and V3 without YaRN, whose embedding is another) attend wrongly from the second token on,
  in every dtype. Compiled engines do not use the kernel; eager ones are told to rotate by PyTorch operations.
- On CPUs with AMX, vLLM picks an attention for multi-head latent attention that takes bfloat16 only.
- The CPU router applies a selection bias, sigmoid scores and a routed scaling factor only where experts are in groups;
  elsewhere it leaves them out (Ernie 4.5) or stops (MiniMax-M2). One group that is always kept is no group at all.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.families import FAMILIES

if TYPE_CHECKING:
    import torch

    from moetrace.tracer.engine.engine import EngineSettings
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


def set_right(model: torch.nn.Module) -> None:
    """Have CPU routers without groups use the bias, scores and scale they hold, before anything is compiled or run."""
    for module in model.modules():
        router: Any = getattr(module, "router", None)
        if type(router).__name__ != "CPURouter":
            continue
        grouped = router.use_grouped_topk or router.custom_routing_function is not None
        plain = router.e_score_correction_bias is None and router.scoring_func == "softmax"
        if not grouped and not plain and router.scoring_func in {"softmax", "sigmoid"}:
            router.use_grouped_topk, router.num_expert_group, router.topk_group = True, 1, 1


def make_stage_inputs(runner: Any) -> None:
    """Give a later pipeline stage the buffers for its inputs.

    vLLM 0.32 makes them in the warm-up, which it leaves out on a CPU for an eager model with a given KV cache size.
    """
    from vllm.distributed.parallel_state import get_pp_group  # noqa: PLC0415  exists once workers are set up

    if not get_pp_group().is_first_rank and getattr(runner, "intermediate_tensors", runner) is None:
        runner.intermediate_tensors = runner.get_model().make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
        )


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
