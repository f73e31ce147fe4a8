"""The tap on the routers of a model: copies what each one computes into the step's buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.utils.torch_utils import direct_register_custom_op

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker import PROBE_TOKENS
from moetrace.tracer.worker.buffers import StepBuffers
from moetrace.tracer.worker.outside import OutsideLogits, is_routed_outside, outside_logits

if TYPE_CHECKING:
    from collections.abc import Callable


def _record(
    ids: torch.Tensor,
    weights: torch.Tensor,
    logits: torch.Tensor,
    ids_buffer: torch.Tensor,
    weights_buffer: torch.Tensor,
    logits_buffer: torch.Tensor,
) -> None:
    rows, logit_rows = ids.shape[0], min(ids.shape[0], logits_buffer.shape[0])
    ids_buffer[:, :rows].copy_(ids.t())
    weights_buffer[:, :rows].copy_(weights.t())
    logits_buffer[:logit_rows].copy_(logits[:logit_rows])


def _record_fake(
    ids: torch.Tensor,  # noqa: ARG001  the op's signature
    weights: torch.Tensor,  # noqa: ARG001
    logits: torch.Tensor,  # noqa: ARG001
    ids_buffer: torch.Tensor,  # noqa: ARG001
    weights_buffer: torch.Tensor,  # noqa: ARG001
    logits_buffer: torch.Tensor,  # noqa: ARG001
) -> None:
    return None


# A custom op whose mutations are declared survives torch.compile; plain copies into a captured tensor may not.
direct_register_custom_op(
    op_name="moetrace_record",
    op_func=_record,
    mutates_args=["ids_buffer", "weights_buffer", "logits_buffer"],
    fake_impl=_record_fake,
)


class RouterTap:
    """A wrapper around the routing of every MoE layer of a model, which fills the step's buffers.

    - layers: decoder indices of the MoE layers, ascending; num_experts, top_k: of each
    - recording: whether an eager model's routing is copied; a compiled one's always is
    """

    def __init__(
        self, model: torch.nn.Module, max_tokens: int, device: torch.device, options: dict[str, Any], *, compiled: bool
    ) -> None:
        runners = sorted((m for m in model.modules() if isinstance(m, MoERunner)), key=lambda runner: runner.layer_id)
        for runner in runners:
            require_tappable(runner, compiled=compiled)
        self.recording = True
        self._compiled = compiled
        self.layers = [int(runner.layer_id) for runner in runners]
        self.routers = [runner.router for runner in runners]
        self.top_k = int(self.routers[0].top_k) if runners else 0
        self.num_experts = int(self.routers[0].global_num_experts) if runners else 0
        self.buffers = StepBuffers.make(
            [float(runner.routed_scaling_factor) for runner in runners],
            max_tokens,
            self.num_experts,
            self.top_k,
            device,
            logit_rows=max_tokens if options["profiles"] else min(max_tokens, PROBE_TOKENS),
            scoring=options["scoring"],
            profiles=options["profiles"],
        )
        outside = outside_logits(model, self.num_experts)
        for index, (runner, router) in enumerate(zip(runners, self.routers, strict=True)):
            self._install(router, index, outside.get(runner))

    def _install(self, router: Any, index: int, outside: OutsideLogits | None) -> None:
        routing: Callable[..., tuple[torch.Tensor, torch.Tensor]] = router._compute_routing  # noqa: SLF001
        buffers = (self.buffers.ids[index], self.buffers.weights[index], self.buffers.logits[index])
        record = torch.ops.vllm.moetrace_record

        # What is traced by a compiler must not depend on a flag: there the op is always part of the graph.
        def tapped_graph(
            hidden_states: torch.Tensor, router_logits: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            weights, ids = routing(hidden_states, router_logits, *args, **kwargs)
            record(ids, weights, router_logits, *buffers)
            return weights, ids

        def tapped_eager(
            hidden_states: torch.Tensor, router_logits: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            weights, ids = routing(hidden_states, router_logits, *args, **kwargs)
            if self.recording:
                _record(ids, weights, outside.logits if outside else router_logits, *buffers)
            return weights, ids

        router._compute_routing = tapped_graph if self._compiled else tapped_eager  # noqa: SLF001

    def remove(self) -> None:
        """Take the wrappers off; only where nothing was compiled with them."""
        for router in self.routers:
            del router._compute_routing  # noqa: SLF001  the class's own method is back

    def evidence(self, rows: int) -> list[tuple[int, Any, Any, Any, Any]]:
        """Return the fields of a `RoutingEvidence` for each layer of the step that just ran."""
        rows = min(rows, self.buffers.logits.shape[1])
        applied = self.buffers.applied(rows)
        found = []
        for index, (layer, router) in enumerate(zip(self.layers, self.routers, strict=True)):
            bias = getattr(router, "e_score_correction_bias", None)
            found.append(
                (
                    layer,
                    self.buffers.logits[index, :rows].cpu().numpy().copy(),
                    self.buffers.ids[index, :, :rows].T.cpu().numpy().astype(np.int32),
                    applied[index].T.cpu().numpy().copy(),
                    None if bias is None else bias.detach().float().cpu().numpy(),
                )
            )
        return found


def require_tappable(runner: Any, *, compiled: bool) -> None:
    """Raise MoetraceError, naming the layer, where a router cannot be seen."""
    layer, router = runner.layer_id, runner.router
    if runner.is_monolithic:
        raise MoetraceError(f"layer {layer}: a monolithic kernel routes inside; choose a modular MoE backend")
    if compiled and is_routed_outside(runner):
        raise MoetraceError(
            f"layer {layer}: vLLM runs this family by transformers' code, whose router can be seen uncompiled only; "
            "leave out --compile"
        )
    if not isinstance(router, BaseRouter):
        raise MoetraceError(f"layer {layer}: a router of type {type(router).__name__} cannot be tapped")
    if getattr(router, "num_fused_shared_experts", 0):
        raise MoetraceError(f"layer {layer}: shared experts are fused into the routing; turn that off in vLLM")
    if runner.moe_config.is_sequence_parallel:
        raise MoetraceError(f"layer {layer}: sequence-parallel MoE routes only a part of the tokens; turn it off")
