"""The buffers that the tap fills in one engine step. Torch only, no vLLM.

Buffers keep their addresses for the life of the model, as CUDA graphs need. Arrays are in the order in which a shard
holds them: layer, rank, token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moetrace.tracer.worker.profiles import ProbabilityRows, RequestSums
from moetrace.tracer.worker.steps import NOT_WRITTEN, id_dtype

if TYPE_CHECKING:
    from moetrace.tracer.worker.profiles import StepProfiles


@dataclass(frozen=True)
class StepBuffers:
    """What routers of L MoE layers write in one step of at most n tokens; ids NOT_WRITTEN where none did.

    - ids: [L, k, n] of the type `id_dtype` says; weights: float32 [L, k, n], router weights before the layer's scale
    - logits: float32 [L, m, E], the router logits of the first m rows, for a probe
    - scale: float32 [L, 1, 1], routed scaling factors, or None where all are 1
    - profiles: what is kept of the probabilities of all rows, None: nothing
    """

    ids: torch.Tensor
    weights: torch.Tensor
    logits: torch.Tensor
    scale: torch.Tensor | None
    profiles: StepProfiles | None

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
        requests: int | None,
        static: bool,
    ) -> StepBuffers:
        """Allocate buffers for `tokens` rows of len(scales) layers.

        requests: of a step at most, None: no profiles are wanted; static: make nothing of probabilities in the pass
        but what a captured graph can
        """
        layers, shape = len(scales), (len(scales), top_k, tokens)
        kind = getattr(torch, id_dtype(num_experts).name)
        profiles: StepProfiles | None = None
        if requests is not None:
            sizes = (layers, tokens, num_experts, requests, scoring)
            profiles = ProbabilityRows(*sizes, device) if static else RequestSums(*sizes)
        return cls(
            ids=torch.full(shape, NOT_WRITTEN, dtype=kind, device=device),
            weights=torch.zeros(shape, dtype=torch.float32, device=device),
            logits=torch.zeros((layers, logit_rows, num_experts), dtype=torch.float32, device=device),
            scale=torch.tensor(scales, dtype=torch.float32, device=device).view(-1, 1, 1)
            if any(scale != 1.0 for scale in scales)
            else None,
            profiles=profiles,
        )

    def clear(self, tokens: int) -> None:
        """Mark the rows of the next step as not written."""
        self.ids[:, :, :tokens].fill_(NOT_WRITTEN)

    def applied(self, tokens: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the gate weights of a step as the layers apply them, float32 [L, k, tokens], in `out` if given."""
        weights = self.weights[:, :, :tokens]
        if self.scale is not None:
            return torch.mul(weights, self.scale, out=out)
        return weights if out is None else out.copy_(weights)


class RoutingCopies:
    """What copies the choices of routers, layer by layer, into the buffers of a step.

    Where the rows of a layer go is looked up again only where a step has another number of rows than the last: with the
    few rows of decoding, finding the place takes as long as the copy.
    """

    def __init__(self, buffers: StepBuffers) -> None:
        self._buffers, self._rows = buffers, -1
        self._places: list[tuple[torch.Tensor, torch.Tensor]] = []

    def copy(self, index: int, ids: torch.Tensor, weights: torch.Tensor) -> None:
        """Copy what the router of a layer, which is number `index`, chose for n rows, [n, k]."""
        rows = ids.shape[0]  # a tensor's len takes ten times as long
        if rows != self._rows:
            parts = (
                buffer[:, :, :rows].transpose(1, 2).unbind(0) for buffer in (self._buffers.ids, self._buffers.weights)
            )
            self._rows, self._places = rows, list(zip(*parts, strict=True))
        ids_place, weights_place = self._places[index]
        ids_place.copy_(ids)
        weights_place.copy_(weights)


def copy_logits(logits: torch.Tensor, buffer: torch.Tensor) -> None:
    """Copy the logits [n, E] of a router into the buffer of its layer, [m, E], as far as there is room."""
    rows = min(len(logits), len(buffer))
    buffer[:rows].copy_(logits[:rows])
