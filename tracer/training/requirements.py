"""What training needs to be installed."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

from moetrace.store.errors import MoetraceError

NEEDED = ("torch", "transformers", "accelerate", "safetensors")


def require_train() -> None:
    """Raise MoetraceError where the extra `train` is not installed, before anything slow is imported."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MoetraceError(f"training needs {', '.join(missing)}: pip install 'moetrace[train]'")
    if int((found := version("transformers")).split(".")[0]) < 5:
        raise MoetraceError(f"training needs transformers 5 or newer, not {found}: pip install 'moetrace[train]'")
