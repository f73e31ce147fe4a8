"""Fine-tuning nothing but the experts of a mask; nothing else of the model moves. Needs the extra `train`."""

from tracer.training.experts_file import load_experts, save_experts
from tracer.training.layout import TrainingError
from tracer.training.masking import apply_mask, restore, write_back
from tracer.training.merge import merge

__all__ = ["TrainingError", "apply_mask", "load_experts", "merge", "restore", "save_experts", "write_back"]
