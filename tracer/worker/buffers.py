"""The buffers that the tap fills in one engine step. Torch only, no vLLM.

Buffers keep their addresses for the life of the model, as CUDA graphs need. Arrays are in the order in which a shard
holds them: layer, rank, token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moetrace.tracer.worker.steps import NOT_WRITTEN


@dataclass(frozen=True)
class StepBuffers:
    """What routers of L MoE layers write in one step of at most n tokens; ids NOT_WRITTEN where none did.

    - ids: int16 or int32 [L, k, n]; weights: float32 [L, k, n], router weights before the layer's scale
    - logits: float32 [L, m, E], the router logits of the first m rows; m = n with profiles, else a probe's length
    - scale: float32 [L, 1, 1], routed scaling factors, or None where all are 1
    """

    ids: torch.Tensor
    weights: torch.Tensor
    logits: torch.Tensor
    scale: torch.Tensor | None
    scoring: str
    profiles: bool

    @classmethod
    def make(
        cls,
        scales: list[float],
        tokens: int,
        num_experts: int,
        top_k: int,
        device: torch.device,
        *,
        logit_rows: int,
        scoring: str,
        profiles: bool,
    ) -> StepBuffers:
        """Allocate buffers for `tokens` rows of len(scales) layers."""
        shape = (len(scales), top_k, tokens)
        kind = torch.int16 if num_experts < 2**15 else torch.int32
        scaled = any(scale != 1.0 for scale in scales)
        return cls(
            ids=torch.full(shape, NOT_WRITTEN, dtype=kind, device=device),
            weights=torch.zeros(shape, dtype=torch.float32, device=device),
            logits=torch.zeros((len(scales), logit_rows, num_experts), dtype=torch.float32, device=device),
            scale=torch.tensor(scales, dtype=torch.float32, device=device).view(-1, 1, 1) if scaled else None,
            scoring=scoring,
            profiles=profiles,
        )

    def clear(self, tokens: int) -> None:
        """Mark the rows of the next step as not written."""
        self.ids[:, :, :tokens].fill_(NOT_WRITTEN)

    def applied(self, tokens: int) -> torch.Tensor:
        """Return the gate weights of a step as the layers apply them, float32 [L, k, tokens]."""
        weights = self.weights[:, :, :tokens]
        return weights if self.scale is None else weights * self.scale

    def probabilities(self, tokens: int) -> torch.Tensor:
        """Return the full router probabilities of a step, float32 [L, tokens, E]."""
        return router_probabilities(self.logits[:, :tokens], self.scoring)


def router_probabilities(logits: torch.Tensor, scoring: str) -> torch.Tensor:
    """Return the full router probabilities [..., E] of router logits: softmax, or sigmoid scores made to sum to 1."""
    if scoring == "softmax":
        return torch.softmax(logits, dim=-1)
    scores = torch.sigmoid(logits)
    return scores / scores.sum(dim=-1, keepdim=True)
