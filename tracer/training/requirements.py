"""What training needs to be installed."""

from __future__ import annotations

from importlib.metadata import version

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.installing import install_command, require

NEEDED = ("torch", "transformers", "accelerate", "safetensors")


def require_train() -> None:
    """Raise MoetraceError where the extra `train` is not installed, before anything slow is imported."""
    require(NEEDED, "training", "train")
    if int((found := version("transformers")).split(".")[0]) < 5:
        raise MoetraceError(f"training needs transformers 5 or newer, not {found}: {install_command('train')}")
