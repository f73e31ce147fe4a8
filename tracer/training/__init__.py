"""Training nothing but the experts of a mask; nothing else of the model moves. Needs the extra `train`.

The names below are imported when they are asked for: torch takes seconds, and reading texts needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace._doors import doors

if TYPE_CHECKING:
    from moetrace.tracer.training.errors import TrainingError
    from moetrace.tracer.training.experts_file import load_experts, save_experts
    from moetrace.tracer.training.masking import apply_mask, restore, write_back
    from moetrace.tracer.training.merging import merge
    from moetrace.tracer.training.training import train

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

__getattr__, __dir__ = doors(
    __name__,
    {
        "TrainingError": "errors",
        "apply_mask": "masking",
        "load_experts": "experts_file",
        "merge": "merging",
        "restore": "masking",
        "save_experts": "experts_file",
        "train": "training",
        "write_back": "masking",
    },
)
