"""Modes of an engine that cannot be traced, and whether one is compiled. Nothing of vLLM is imported with this file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# Why a mode is refused; what can be seen in an engine's arguments is refused before it starts.
DATA_PARALLEL = "data parallelism inside one engine: run one engine a device on the same store instead"
SPECULATIVE = "speculative decoding: a draft's tokens are routed and then thrown away"


def require_mode(config: VllmConfig) -> None:
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


def is_compiled(config: VllmConfig) -> bool:
    """Tell whether the model's forward pass is compiled or captured in graphs."""
    from vllm.config import CompilationMode, CUDAGraphMode  # noqa: PLC0415  slow; there is an engine, so it is loaded

    compilation = config.compilation_config
    graphs = getattr(compilation, "cudagraph_mode", None) not in {None, CUDAGraphMode.NONE}
    return not config.model_config.enforce_eager and (compilation.mode != CompilationMode.NONE or graphs)
