"""Steps of a small model, routed at random and written into buffers as its routers would."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from moetrace.tracer.worker.buffers import RoutingCopies, StepBuffers, copy_logits
from moetrace.tracer.worker.steps import StepRows

LAYERS, TOKENS, EXPERTS, TOP_K = 3, 24, 6, 2
REQUESTS, PROBED = 8, 4  # of a step at most; rows whose logits are kept


@dataclass(frozen=True)
class RoutedStep:
    """A step as it is routed: ids and weights [L, n, k], logits [L, n, E]; token ids for more rows than it has."""

    rows: StepRows
    token_ids: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    logits: torch.Tensor

    def on(self, device: torch.device) -> RoutedStep:
        """Return the step with its tensors on a device."""
        return RoutedStep(
            self.rows, *(each.to(device) for each in (self.token_ids, self.ids, self.weights, self.logits))
        )

    def write(self, buffers: StepBuffers) -> None:
        """Write the step into buffers, layer by layer, as the routers' seam does."""
        copies = RoutingCopies(buffers)
        for layer, (ids, weights, logits) in enumerate(zip(self.ids, self.weights, self.logits, strict=True)):
            copies.copy(layer, ids, weights)
            copy_logits(logits, buffers.logits[layer])
            if buffers.profiles is not None:
                buffers.profiles.add(layer, logits)


def make_buffers(
    scales: list[float] | None = None, *, static: bool = False, scoring: str = "softmax", num_experts: int = EXPERTS
) -> StepBuffers:
    return StepBuffers.make(
        scales or [1.0] * LAYERS,
        TOKENS,
        num_experts,
        TOP_K,
        torch.device("cpu"),
        logit_rows=PROBED,
        scoring=scoring,
        requests=REQUESTS,
        static=static,
    )


def routed_step(rng: np.random.Generator, counts: list[int], num_experts: int = EXPERTS) -> RoutedStep:
    tokens = sum(counts)
    rows = StepRows([str(number) for number in range(len(counts))], np.zeros(len(counts), np.int64), np.array(counts))
    return RoutedStep(
        rows,
        torch.from_numpy(rng.integers(0, 99, TOKENS)),
        torch.from_numpy(rng.integers(0, num_experts, (LAYERS, tokens, TOP_K)).astype(np.int32)),
        torch.from_numpy(rng.random((LAYERS, tokens, TOP_K), dtype=np.float32)),
        torch.from_numpy(rng.normal(size=(LAYERS, tokens, num_experts)).astype(np.float32)),
    )


def request(name: str, extra_args: dict[str, Any] | None = None, prompt_tokens: int = 3) -> Any:
    """A new request as vLLM's scheduler describes it to a worker (NewRequestData)."""
    sampling = SimpleNamespace(extra_args=extra_args)
    return SimpleNamespace(req_id=name, sampling_params=sampling, prompt_token_ids=[1] * prompt_tokens)
