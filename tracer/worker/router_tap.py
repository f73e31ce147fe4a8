"""The tap on the routers of a model: the buffers into which each one's routing is copied. Torch only, no vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moetrace.tracer.worker import PROBE_TOKENS
from moetrace.tracer.worker.buffers import RoutingCopies, StepBuffers, copy_logits

if TYPE_CHECKING:
    from moetrace.tracer.worker.routers import RouterSeam


class RouterTap:
    """The step's buffers, one part a layer of a seam.

    - probing: whether an eager model's logits are kept for `evidence`; a compiled one's always are
    - witnesses: what a compiler is told that recording writes: a tensor of one number for each layer
    """

    def __init__(
        self, seam: RouterSeam, max_tokens: int, max_requests: int, device: torch.device, options: dict[str, Any]
    ) -> None:
        self._seam = seam
        self.layers, self.num_experts, self.top_k = seam.layers, seam.num_experts, seam.top_k
        self.buffers = StepBuffers.make(
            seam.scales,
            max_tokens,
            self.num_experts,
            self.top_k,
            device,
            logit_rows=min(max_tokens, PROBE_TOKENS),
            scoring=options["scoring"],
            requests=min(max_tokens, max_requests) if options["profiles"] else None,
            static=device.type != "cpu",
        )

        self.probing = True
        self.witnesses = [torch.zeros(1, device=device) for _ in seam.layers]
        self._copies = RoutingCopies(self.buffers)

    def record(
        self, index: int, ids: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor, *, probing: bool
    ) -> None:
        """Copy the routing of a layer, its logits as they are steered; `probing`: keep the logits, too."""
        self._copies.copy(index, ids, weights)
        if probing:
            copy_logits(logits, self.buffers.logits[index])
        if self.buffers.profiles is not None:
            self.buffers.profiles.add(index, logits)

    def evidence(self, rows: int) -> list[tuple[int, Any, Any, Any, Any]]:
        """Return the fields of a `RoutingEvidence` for each layer of the step that just ran."""
        rows = min(rows, self.buffers.logits.shape[1])
        applied = self.buffers.applied(rows)
        found = []
        for index, (layer, router) in enumerate(zip(self.layers, self._seam.routers, strict=True)):
            bias = getattr(router, "e_score_correction_bias", None)
            found.append(
                (
                    layer,
                    self.buffers.logits[index, :rows].cpu().numpy().copy(),
                    self.buffers.ids[index, :, :rows].T.cpu().numpy().astype(np.int32),
                    applied[index].T.cpu().numpy().copy(),
                    None if bias is None else bias.detach().float().cpu().numpy(),
                )
            )
        return found
