"""How vLLM is run, which versions of it and of what it runs on are here, and whether it is here at all."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

from moetrace.tracer.model.installing import require
from moetrace.tracer.worker.contacts import VLLM, installed_version

ENGINE = ("vllm", "transformers")


@dataclass(frozen=True)
class EngineSettings:
    """How vLLM is run; `record` is what of it the run record keeps.

    `synthetic`: no model is run, routing is made up (`SyntheticEngine`), at most `rate` tokens a second.
    """

    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_batched_tokens: int = 4096
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    expert_parallel: bool = False
    eager: bool = True
    prefix_caching: bool = False
    kv_cache_gib: float | None = None
    profiles: bool = True
    self_check: bool = True
    steering: bool = False  # whether requests may be steered; which, and how, is not the engine's
    synthetic: bool = False
    rate: float | None = None
    options: dict[str, Any] = field(default_factory=dict)  # any further arguments of vllm.LLM

    def record(self) -> dict[str, Any]:
        """Return what the run record keeps: the settings that can change a number."""
        left_out = {"profiles", "kv_cache_gib", "steering", "rate"} | (set() if self.synthetic else {"synthetic"})
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def require_engine() -> None:
    """Raise MoetraceError where vLLM is not installed, before anything slow is started, and keep it quiet."""
    require(ENGINE, "running a model")
    # Before torch and vLLM are imported. Their errors still show; moetrace's own messages say the rest.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def engine_versions() -> dict[str, str]:
    """Return the versions that decide numbers: vLLM's (either distribution), torch's and transformers'."""
    found = {
        "vllm": installed_version(*VLLM),
        "torch": installed_version("torch"),
        "transformers": installed_version("transformers"),
    }
    return {name: version for name, version in found.items() if version and importlib.util.find_spec(name)}
