"""The tap in vLLM: the one file that touches its internals. It copies what routers compute and knows nothing of files.

`CONTACTS` names every attribute of vLLM that it relies on; a test checks each, and an engine that lacks one is refused
by that name.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.platforms import current_platform
from vllm.utils.torch_utils import direct_register_custom_op

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.model.replay import RoutingEvidence, check_routing
from moetrace.tracer.worker import PROBE_TOKENS
from moetrace.tracer.worker import cpu_fixes as cpu
from moetrace.tracer.worker.assembly import CapturedShard, ShardAssembler, Step, StepRows
from moetrace.tracer.worker.buffers import StepBuffers, make_transfer
from moetrace.tracer.worker.outside import OutsideLogits, is_routed_outside, outside_logits
from moetrace.tracer.worker.recorder import LiveRecorder

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _Worker
else:
    from vllm.v1.worker.gpu_worker import Worker as _Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput

log = logging.getLogger("vllm.moetrace")

TAG = "moetrace"  # the key of SamplingParams.extra_args and of additional_config
# Why a mode is refused; what can be seen in an engine's arguments is refused before it starts.
DATA_PARALLEL = "data parallelism inside one engine: run one engine a device on the same store instead"
SPECULATIVE = "speculative decoding: a draft's tokens are routed and then thrown away"

# module:attribute path of a class, a method or a dataclass field; what only instances have is checked where it is used.
CONTACTS = (
    "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner.layer_id",
    "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner.is_monolithic",
    "vllm.model_executor.layers.fused_moe.router.base_router:BaseRouter._compute_routing",
    "vllm.v1.worker.gpu_worker:Worker.load_model",
    "vllm.v1.worker.gpu_worker:Worker.execute_model",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.get_model",
    "vllm.v1.worker.worker_base:WorkerBase.shutdown",
    "vllm.v1.core.sched.output:SchedulerOutput.num_scheduled_tokens",
    "vllm.v1.core.sched.output:SchedulerOutput.total_num_scheduled_tokens",
    "vllm.v1.core.sched.output:SchedulerOutput.scheduled_new_reqs",
    "vllm.v1.core.sched.output:SchedulerOutput.finished_req_ids",
    "vllm.v1.core.sched.output:NewRequestData.req_id",
    "vllm.v1.core.sched.output:NewRequestData.sampling_params",
    "vllm.v1.core.sched.output:NewRequestData.prompt_token_ids",
    "vllm.config:VllmConfig.additional_config",
    "vllm.config:VllmConfig.speculative_config",
    "vllm.config:ParallelConfig.data_parallel_size",
    "vllm.config:ParallelConfig.enable_dbo",
    "vllm.config:ParallelConfig.worker_cls",
    "vllm.config:SchedulerConfig.max_num_batched_tokens",
    "vllm.distributed.parallel_state:get_tp_group",
    "vllm.sampling_params:SamplingParams.extra_args",
    "vllm.sampling_params:SamplingParams.skip_reading_prefix_cache",
    "vllm.engine.arg_utils:EngineArgs.create_engine_config",
)
INSTANCE_CONTACTS = {
    "MoERunner": ("router", "routed_scaling_factor", "moe_config.is_sequence_parallel"),
    "BaseRouter": ("top_k", "global_num_experts"),
    "Worker": ("model_runner", "vllm_config", "device", "use_v2_model_runner"),
    "GPUModelRunner": ("input_batch.req_ids", "input_batch.num_computed_tokens_cpu", "input_ids.gpu"),
}


def missing_contacts() -> list[str]:
    """Return which of CONTACTS the installed vLLM lacks."""
    missing = []
    for contact in CONTACTS:
        module, _, path = contact.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for name in path.split("."):
                fields = getattr(found, "__dataclass_fields__", {})
                annotations = getattr(found, "__annotations__", {})
                found = None if name in fields or name in annotations else getattr(found, name)
        except (ImportError, AttributeError):
            missing.append(contact)
    return missing


def _record(
    ids: torch.Tensor,
    weights: torch.Tensor,
    logits: torch.Tensor,
    ids_buffer: torch.Tensor,
    weights_buffer: torch.Tensor,
    logits_buffer: torch.Tensor,
) -> None:
    rows, logit_rows = ids.shape[0], min(ids.shape[0], logits_buffer.shape[0])
    ids_buffer[:rows].copy_(ids)
    weights_buffer[:rows].copy_(weights)
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
    """A wrapper around the routing of every MoE layer of a model, which fills the step's buffers."""

    def __init__(
        self, model: torch.nn.Module, max_tokens: int, device: torch.device, options: dict[str, Any], *, compiled: bool
    ) -> None:
        runners = sorted((m for m in model.modules() if isinstance(m, MoERunner)), key=lambda runner: runner.layer_id)
        for runner in runners:
            _require_tappable(runner, compiled=compiled)
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
        """Return for each layer of the step that just ran: layer, logits, ids, applied weights, selection bias."""
        rows = min(rows, self.buffers.logits.shape[1])
        applied = self.buffers.applied(rows)
        found = []
        for index, (layer, router) in enumerate(zip(self.layers, self.routers, strict=True)):
            bias = getattr(router, "e_score_correction_bias", None)
            found.append(
                (
                    layer,
                    self.buffers.logits[index, :rows].cpu().numpy().copy(),
                    self.buffers.ids[index, :rows].cpu().numpy().astype(np.int32),
                    applied[index].cpu().numpy().copy(),
                    None if bias is None else bias.detach().float().cpu().numpy(),
                )
            )
        return found


class Sink(Protocol):
    """Where captured steps go."""

    def owner(self, request: NewRequestData) -> Any:
        """Return whom the rows of a request belong to, None where nobody wants them."""

    def add(self, step: Step, rows: StepRows) -> None:
        """Take a step."""

    def finished(self, owner: Any) -> None:
        """Learn that an owner's request has finished."""


class _Planned:
    """Rows of requests that carry a tag, into the shards of a plan."""

    def __init__(self, tap: RouterTap, *, profiles: bool) -> None:
        self.assembler = ShardAssembler(tap.layers, tap.num_experts, tap.top_k, profiles=profiles)

    def owner(self, request: NewRequestData) -> Any:
        extra = request.sampling_params.extra_args if request.sampling_params else None
        return tuple(extra[TAG]) if extra and TAG in extra else None

    def add(self, step: Step, rows: StepRows) -> None:
        self.assembler.add(step, rows)

    def finished(self, owner: Any) -> None:
        """Planned texts end by their length or by `finish`."""


class WorkerTap:
    """The tap of one worker: wraps its `execute_model`, hands each step to a sink."""

    def __init__(self, worker: Any, options: dict[str, Any]) -> None:
        """Install on a worker whose model is loaded; raise MoetraceError where the engine's mode cannot be traced."""
        config: VllmConfig = worker.vllm_config
        _require_mode(config)
        self._worker, self._options = worker, options
        self.tap = RouterTap(
            worker.model_runner.get_model(),
            config.scheduler_config.max_num_batched_tokens,
            worker.device,
            options,
            compiled=is_compiled(config),
        )
        self._transfer = make_transfer(self.tap.buffers)
        self._owners: dict[str, Any] = {}
        self._failure: str | None = None
        self._evidence: list[Any] | None = None
        self._probing = False
        self._sink: Any = None
        self.reset()
        self._forward = worker.execute_model
        worker.execute_model = self._execute

    def _execute(self, scheduler_output: SchedulerOutput) -> Any:
        """Run one step and put its rows where they belong."""
        self._keeping(self._register, scheduler_output)
        tokens = scheduler_output.total_num_scheduled_tokens
        self.tap.recording = bool(self._owners and tokens and self._failure is None)
        if not self.tap.recording:
            return self._forward(scheduler_output)
        self._transfer.before_forward(tokens)
        output = self._forward(scheduler_output)
        self._keeping(self._collect, scheduler_output)
        return output

    def _keeping(self, work: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Do a part of the capture unless it has failed; keep why it fails.

        That is handed over with the next `take`: an exception in a step would kill the engine without its words.
        """
        if self._failure is not None:
            return
        try:
            work(*arguments, **options)
        except MoetraceError as error:
            self._failure = str(error)
            if self._options.get("live"):
                log.error("moetrace stopped recording: %s", error)  # noqa: TRY400  the words are enough

    def _register(self, scheduler_output: SchedulerOutput) -> None:
        """Learn which requests have ended, which begin, and whose rows are wanted."""
        for request in scheduler_output.finished_req_ids:
            owner = self._owners.pop(request, None)
            if owner is not None:
                self._receive(wait=True)
                self._sink.finished(owner)
        for new in scheduler_output.scheduled_new_reqs:
            if new.req_id not in self._owners:
                owner = self._sink.owner(new)
                if owner is not None:
                    self._owners[new.req_id] = owner

    def _collect(self, scheduler_output: SchedulerOutput) -> None:
        """Take over the rows of the step that was just launched."""
        self._transfer.send(*self._rows(scheduler_output))
        if self._probing:
            self._evidence = self.tap.evidence(scheduler_output.total_num_scheduled_tokens)
            self._probing = False
            self._check_live()
        self._receive(wait=False)

    def _rows(self, scheduler_output: SchedulerOutput) -> tuple[StepRows, torch.Tensor]:
        """Return whose the rows of the step are, and its token ids on the device."""
        runner = self._worker.model_runner
        if self._worker.use_v2_model_runner:
            batch = runner.execute_model_state.input_batch
            starts, token_ids = batch.num_computed_tokens_np, batch.input_ids
        else:
            batch = runner.input_batch
            starts, token_ids = batch.num_computed_tokens_cpu, runner.input_ids.gpu
        requests = batch.req_ids
        scheduled = scheduler_output.num_scheduled_tokens
        counts = np.array([scheduled[request] for request in requests], dtype=np.int64)
        owners = [self._owners.get(request) for request in requests]
        return StepRows(owners, starts[: len(requests)].astype(np.int64), counts), token_ids

    def _receive(self, *, wait: bool) -> None:
        for rows, step in self._transfer.receive(wait=wait):
            if self.tap.layers:
                self._sink.add(step, rows)

    def _check_live(self) -> None:
        """Check how the first step of a recording was routed; planned traces are checked by who plans them."""
        live = self._options.get("live")
        if live and self._evidence:
            rule = RoutingRule(**live["record"]["routing"])
            check_routing(rule, [RoutingEvidence(*entry) for entry in self._evidence])

    def layout(self) -> dict[str, Any]:
        """Return what was tapped: MoE layers, experts, top-k."""
        return {"moe_layers": self.tap.layers, "num_experts": self.tap.num_experts, "top_k": self.tap.top_k}

    def reset(self) -> None:
        """Forget every open shard, and why the capture failed."""
        for _ in self._transfer.receive(wait=True):
            pass
        self._owners.clear()
        self._failure = None
        live = self._options.get("live")
        self._probing = bool(live and live["self_check"])
        self._sink = (
            LiveRecorder(self.layout(), live) if live else _Planned(self.tap, profiles=self._options["profiles"])
        )

    def probe(self) -> None:
        """Keep the router logits of the next step."""
        self._probing, self._evidence = True, None

    def evidence(self) -> list[Any] | None:
        """Return what the probed step was routed by (`RouterTap.evidence`), None where there was none."""
        return self._evidence

    def open(self, key: str, lengths: list[int], new_tokens: int) -> None:
        """Announce a shard before its requests are added."""
        self._sink.assembler.open(key, lengths, new_tokens)

    def take(self, ends: list[tuple[str, int, int]]) -> tuple[str | None, list[CapturedShard]]:
        """Return why the capture failed (None where it did not) and the shards completed since the last call.

        `ends` says of texts with generated tokens where they end: (shard, text, positions).
        """
        self._keeping(self._receive, wait=True)
        self._keeping(self._sink.assembler.finish, ends)
        return self._failure, self._sink.assembler.take()

    def start_recording(self, live: dict[str, Any]) -> None:
        """Record every request from now on into a store."""
        self._options = {**self._options, "live": live}
        self.reset()

    def stop_recording(self) -> dict[str, Any]:
        """Write what is left and return what was recorded, and under `failure` why anything was lost."""
        self._keeping(self._receive, wait=True)
        self._owners.clear()
        summary: dict[str, Any] = self._sink.close()
        self._options = {**self._options, "live": None}
        failure = self._failure
        self.reset()
        return {**summary, "failure": failure or summary["failure"]}

    def remove(self) -> None:
        """Leave the worker as it was; only where nothing was compiled with the tap in it."""
        del self._worker.execute_model  # the class's own method is back
        self.tap.remove()


def call(worker: Any, command: str, *arguments: Any) -> Any:
    """Run a command of a worker's tap: what `collective_rpc("moetrace", (command, ...))` reaches on every worker.

    Workers that repeat what another computes (tensor-parallel ranks after the first) have no tap and answer None.
    """
    if command == "install":
        return install(worker, *arguments)
    if command == "uninstall":
        return uninstall(worker)
    tap = worker.__dict__.get("moetrace_tap")
    return None if tap is None else getattr(tap, command)(*arguments)


def install(worker: Any, options: dict[str, Any]) -> bool:
    """Put a tap on a worker whose model is loaded; tell whether there is one now."""
    from vllm.distributed.parallel_state import get_tp_group  # noqa: PLC0415  exists once workers are set up

    if get_tp_group().rank_in_group == 0 and "moetrace_tap" not in worker.__dict__:
        worker.moetrace_tap = WorkerTap(worker, options)
    return "moetrace_tap" in worker.__dict__


def uninstall(worker: Any) -> None:
    """Take a worker's tap off."""
    tap = worker.__dict__.pop("moetrace_tap", None)
    if tap is not None:
        tap.remove()


class TracedWorker(_Worker):  # type: ignore[misc]
    """vLLM's worker with a tap on every router: installed after the weights load, before warm-up and compilation."""

    moetrace = call

    def load_model(self, **kwargs: Any) -> None:
        """Load the model and install the tap."""
        super().load_model(**kwargs)
        if self.device.type == "cpu":
            _make_stage_inputs(self.model_runner)
            cpu.set_right(m.router for m in self.model_runner.get_model().modules() if isinstance(m, MoERunner))
        install(self, self.vllm_config.additional_config[TAG])

    def shutdown(self) -> None:
        """Write what is still in memory before the worker goes."""
        tap = self.__dict__.get("moetrace_tap")
        if tap is not None and tap._options.get("live"):  # noqa: SLF001
            tap.stop_recording()
        super().shutdown()


def _make_stage_inputs(runner: Any) -> None:
    """Give a later pipeline stage the buffers for its inputs.

    vLLM 0.32 makes them in the warm-up, which it leaves out on a CPU for an eager model with a given KV cache size.
    """
    from vllm.distributed.parallel_state import get_pp_group  # noqa: PLC0415  exists once workers are set up

    if not get_pp_group().is_first_rank and getattr(runner, "intermediate_tensors", runner) is None:
        runner.intermediate_tensors = runner.get_model().make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
        )


def is_compiled(config: VllmConfig) -> bool:
    """Tell whether the model's forward pass is compiled or captured in graphs."""
    from vllm.config import CompilationMode, CUDAGraphMode  # noqa: PLC0415

    compilation = config.compilation_config
    graphs = getattr(compilation, "cudagraph_mode", None) not in {None, CUDAGraphMode.NONE}
    return not config.model_config.enforce_eager and (compilation.mode != CompilationMode.NONE or graphs)


def _require_mode(config: VllmConfig) -> None:
    """Raise MoetraceError for a mode of the engine in which a row of a buffer is not a token of a request."""
    parallel = config.parallel_config
    refused = {
        SPECULATIVE: config.speculative_config is not None,
        "dual-batch overlap: two halves of a batch would write the same rows": bool(parallel.enable_dbo),
        DATA_PARALLEL: parallel.data_parallel_size > 1,
        "prefill context parallelism: a rank routes only a part of each text": (
            getattr(parallel, "prefill_context_parallel_size", 1) > 1
        ),
    }
    for reason, applies in refused.items():
        if applies:
            raise MoetraceError(f"cannot trace with {reason}")


def _require_tappable(runner: Any, *, compiled: bool) -> None:
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
