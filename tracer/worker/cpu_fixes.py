"""What vLLM 0.32 computes wrongly on a CPU and must be set right in the worker, before anything is compiled or run.

Found by comparing vLLM's layers with transformers', as is what `tracer/engine/cpu_options.py` tells the engine;
tests/end_to_end/test_families.py shows that together they suffice.

The CPU router applies a selection bias, sigmoid scores and a routed scaling factor only where experts are in groups;
elsewhere it leaves them out (Ernie 4.5) or stops (MiniMax-M2). One group that is always kept is no group at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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
