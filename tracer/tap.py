"""The tap in vLLM: the one file that touches its internals. It copies what routers compute and knows nothing of files.

Relies on (vLLM 0.32): `MoERunner` modules with `layer_id`, `router._compute_routing`, `router.top_k`,
`router.global_num_experts`, `routed_scaling_factor` and `is_monolithic`; worker methods `load_model` and
`execute_model`; `model_runner.input_batch.req_ids`, `.num_computed_tokens_cpu`, `model_runner.input_ids.cpu`;
`scheduler_output.num_scheduled_tokens`, `.total_num_scheduled_tokens`, `.scheduled_new_reqs`, `.finished_req_ids`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.platforms import current_platform
from vllm.utils.torch_utils import direct_register_custom_op

from store import CaptureError, MoetraceError
from tracer.capture import NOT_WRITTEN, CapturedShard, Rows, ShardAssembler, Step

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _Worker
else:
    from vllm.v1.worker.gpu_worker import Worker as _Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.v1.core.sched.output import SchedulerOutput

TAG = "moetrace"  # the key of SamplingParams.extra_args: {"moetrace": [shard, index of the text in it]}


def _record(
    ids: torch.Tensor,
    weights: torch.Tensor,
    logits: torch.Tensor,
    ids_buffer: torch.Tensor,
    weights_buffer: torch.Tensor,
    logits_buffer: torch.Tensor,
) -> None:
    rows = ids.shape[0]
    ids_buffer[:rows].copy_(ids)
    weights_buffer[:rows].copy_(weights)
    if logits_buffer.shape[0]:
        logits_buffer[:rows].copy_(logits)


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
    """Buffers for one step and a wrapper around the routing of every MoE layer that fills them.

    Buffers keep their addresses for the life of the model: ids int32 [L, n, k], weights float32 [L, n, k], router
    logits float32 [L, n, E], with n = max_num_batched_tokens.
    """

    def __init__(self, model: torch.nn.Module, max_tokens: int, device: torch.device, *, logits: bool) -> None:
        runners = sorted((m for m in model.modules() if isinstance(m, MoERunner)), key=lambda runner: runner.layer_id)
        if not runners:
            raise MoetraceError("the engine's model has no MoE layers")
        for runner in runners:
            if runner.is_monolithic:
                raise MoetraceError(
                    f"layer {runner.layer_id}: a monolithic kernel routes inside; choose a modular MoE backend"
                )
        self.layers = [int(runner.layer_id) for runner in runners]
        self.top_k = int(runners[0].router.top_k)
        self.num_experts = int(runners[0].router.global_num_experts)
        scales = [float(runner.routed_scaling_factor) for runner in runners]
        self._scale = torch.tensor(scales, device=device).view(-1, 1, 1) if any(s != 1.0 for s in scales) else None
        shape = (len(runners), max_tokens)
        self._ids = torch.full((*shape, self.top_k), NOT_WRITTEN, dtype=torch.int32, device=device)
        self._weights = torch.zeros((*shape, self.top_k), dtype=torch.float32, device=device)
        rows = (len(runners), max_tokens if logits else 0)
        self._logits = torch.zeros((*rows, self.num_experts), dtype=torch.float32, device=device)
        for index, runner in enumerate(runners):
            self._install(runner.router, index)

    def _install(self, router: Any, index: int) -> None:
        routing: Callable[..., tuple[torch.Tensor, torch.Tensor]] = router._compute_routing  # noqa: SLF001
        buffers = (self._ids[index], self._weights[index], self._logits[index])

        def tapped(
            hidden_states: torch.Tensor, router_logits: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            weights, ids = routing(hidden_states, router_logits, *args, **kwargs)
            torch.ops.vllm.moetrace_record(ids, weights, router_logits, *buffers)
            return weights, ids

        router._compute_routing = tapped  # noqa: SLF001

    def clear(self, tokens: int) -> None:
        """Mark the rows of the next step as not written."""
        self._ids[:, :tokens].fill_(NOT_WRITTEN)

    def read(self, tokens: int, token_ids: torch.Tensor, scoring: str) -> Step:
        """Return the rows of the step that just ran; arrays are views or copies that the next step may overwrite."""
        weights = self._weights[:, :tokens]
        if self._scale is not None:
            weights = weights * self._scale
        probabilities = None
        if self._logits.shape[1]:
            probabilities = router_probabilities(self._logits[:, :tokens], scoring).cpu().numpy()
        return Step(
            self._ids[:, :tokens].cpu().numpy(),
            weights.cpu().numpy(),
            probabilities,
            token_ids[:tokens].to(torch.int32).numpy(),
        )


def router_probabilities(logits: torch.Tensor, scoring: str) -> torch.Tensor:
    """Return the full router probabilities [..., E] of router logits: softmax, or sigmoid scores made to sum to 1."""
    if scoring == "softmax":
        return torch.softmax(logits, dim=-1)
    scores = torch.sigmoid(logits)
    return scores / scores.sum(dim=-1, keepdim=True)


class TracedWorker(_Worker):  # type: ignore[misc]
    """vLLM's worker with a tap on every router: installed after the weights load, before warm-up and compilation."""

    def load_model(self, **kwargs: Any) -> None:
        """Load the model and install the tap."""
        super().load_model(**kwargs)
        options = self.vllm_config.additional_config[TAG]
        self._tap = RouterTap(
            self.model_runner.get_model(),
            self.vllm_config.scheduler_config.max_num_batched_tokens,
            self.device,
            logits=options["profiles"],
        )
        self._scoring = options["scoring"]
        self._profiles = options["profiles"]
        self._requests: dict[str, tuple[str, int]] = {}
        self._failure: str | None = None
        self._assembler = self._new_assembler()

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:
        """Run one step and put its rows where they belong."""
        tokens = scheduler_output.total_num_scheduled_tokens
        for finished in scheduler_output.finished_req_ids:
            self._requests.pop(finished, None)
        for request in scheduler_output.scheduled_new_reqs:
            extra = request.sampling_params.extra_args if request.sampling_params else None
            if extra and TAG in extra:
                self._requests[request.req_id] = tuple(extra[TAG])
        tracing = bool(self._requests and tokens and self._failure is None)
        if tracing:
            self._tap.clear(tokens)
        output = super().execute_model(scheduler_output)
        if tracing:
            try:
                self._collect(scheduler_output, tokens)
            except CaptureError as error:
                # Handed over with the next `moetrace_take`: an exception here would kill the engine without its words.
                self._failure = str(error)
        return output

    def _collect(self, scheduler_output: SchedulerOutput, tokens: int) -> None:
        batch = self.model_runner.input_batch
        rows = []
        for number, request in enumerate(batch.req_ids):
            count = scheduler_output.num_scheduled_tokens[request]
            shard, index = self._requests.get(request, ("", 0))
            rows.append(Rows(shard, index, int(batch.num_computed_tokens_cpu[number]), count))
        self._assembler.add(self._tap.read(tokens, self.model_runner.input_ids.cpu, self._scoring), rows)

    def moetrace_reset(self) -> None:
        """Forget every open shard, and why the capture failed."""
        self._assembler = self._new_assembler()
        self._failure = None

    def _new_assembler(self) -> ShardAssembler:
        tap = self._tap
        return ShardAssembler(tap.layers, tap.num_experts, tap.top_k, profiles=self._profiles)

    def moetrace_layout(self) -> dict[str, Any]:
        """Return what was tapped: MoE layers, experts, top-k."""
        return {"moe_layers": self._tap.layers, "num_experts": self._tap.num_experts, "top_k": self._tap.top_k}

    def moetrace_open(self, key: str, lengths: list[int]) -> None:
        """Announce a shard before its requests are added."""
        self._assembler.open(key, lengths)

    def moetrace_take(self) -> tuple[str | None, list[CapturedShard]]:
        """Return why the capture failed (None where it did not) and the shards completed since the last call."""
        return self._failure, self._assembler.take()
