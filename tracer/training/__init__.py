"""Training nothing but the experts of a mask; nothing else of the model moves. Needs the extra `train`.

The names below are imported when they are asked for: torch takes seconds, and reading texts needs none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tracer.training.errors import TrainingError

if TYPE_CHECKING:
    from tracer.training.experts_file import load_experts, save_experts
    from tracer.training.masking import apply_mask, restore, write_back
    from tracer.training.merging import merge
    from tracer.training.trainer import train

__all__ = [
    "TrainingError",
    "apply_mask",
    "load_experts",
    "merge",
    "restore",
    "save_experts",
    "train",
    "write_back",
]

MODULES = {
    "apply_mask": "masking",
    "load_experts": "experts_file",
    "merge": "merging",
    "restore": "masking",
    "save_experts": "experts_file",
    "train": "trainer",
    "write_back": "masking",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
