"""Router logits of families that vLLM runs by transformers' code and leaves to route there (HunYuan).

vLLM takes over the experts only: its runner is called with the experts and weights that transformers' router chose,
weights in place of logits. The logits are seen where they are made: a child of the MoE block has them in its output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.store.errors import CaptureError

if TYPE_CHECKING:
    import torch


def is_routed_outside(runner: torch.nn.Module) -> bool:
    """Tell whether a MoE runner is handed experts and weights that were chosen elsewhere."""
    return type(runner).__name__ == "TransformersMoERunner"


def outside_logits(model: torch.nn.Module, num_experts: int) -> dict[torch.nn.Module, OutsideLogits]:
    """Return for each runner of a model that is routed outside where its router's logits can be had."""
    found = {}
    for block in model.modules():
        for runner in block.children():
            if is_routed_outside(runner):
                found[runner] = OutsideLogits(block, runner, num_experts)
    return found


class OutsideLogits:
    """The logits that a MoE block's router computed last; the hooks last as long as the model."""

    def __init__(self, block: torch.nn.Module, runner: torch.nn.Module, num_experts: int) -> None:
        self._name, self._num_experts = type(block).__name__, num_experts
        self._logits: torch.Tensor | None = None
        for child in block.children():
            if child is not runner:
                child.register_forward_hook(self._look)

    @property
    def logits(self) -> torch.Tensor:
        """Return the logits [n, E] of the step; raise CaptureError where no child of the block had any."""
        if self._logits is None:
            raise CaptureError(f"{self._name}: no part of it returns router logits; this family cannot be traced")
        logits, self._logits = self._logits, None
        return logits

    def _look(self, _module: torch.nn.Module, _arguments: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if tensor.ndim == 2 and tensor.shape[-1] == self._num_experts:
                self._logits = tensor
