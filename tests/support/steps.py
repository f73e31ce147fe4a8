"""Steps of a small model, written into buffers as its routers would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from moetrace.tracer.worker.buffers import StepBuffers
from moetrace.tracer.worker.steps import StepRows

LAYERS, TOKENS, EXPERTS, TOP_K = 3, 24, 6, 2


def make_buffers(scales: list[float] | None = None) -> StepBuffers:
    return StepBuffers.make(
        scales or [1.0] * LAYERS,
        TOKENS,
        EXPERTS,
        TOP_K,
        torch.device("cpu"),
        logit_rows=TOKENS,
        scoring="softmax",
        profiles=True,
    )


def run_step(buffers: StepBuffers, rng: np.random.Generator, counts: list[int]) -> tuple[StepRows, torch.Tensor]:
    """Write a step as routers would, and return its rows and token ids."""
    tokens = sum(counts)
    buffers.ids[:, :, :tokens] = torch.from_numpy(rng.integers(0, EXPERTS, (LAYERS, TOP_K, tokens)))
    buffers.weights[:, :, :tokens] = torch.from_numpy(rng.random((LAYERS, TOP_K, tokens), dtype=np.float32))
    buffers.logits[:, :tokens] = torch.from_numpy(rng.normal(size=(LAYERS, tokens, EXPERTS)).astype(np.float32))
    rows = StepRows([str(number) for number in range(len(counts))], np.zeros(len(counts), np.int64), np.array(counts))
    return rows, torch.from_numpy(rng.integers(0, 99, TOKENS))


def request(name: str, extra_args: dict[str, Any] | None = None, prompt_tokens: int = 3) -> Any:
    """A new request as vLLM's scheduler describes it to a worker (NewRequestData)."""
    sampling = SimpleNamespace(extra_args=extra_args)
    return SimpleNamespace(req_id=name, sampling_params=sampling, prompt_token_ids=[1] * prompt_tokens)
