"""Fine-tuning nothing but the experts of a mask, and nothing else of the model moves; needs the extra `train`."""

from tracer.training.experts_file import load_experts, save_experts
from tracer.training.layout import TrainingError
from tracer.training.masking import apply_mask, restore, write_back

__all__ = ["TrainingError", "apply_mask", "load_experts", "restore", "save_experts", "write_back"]
