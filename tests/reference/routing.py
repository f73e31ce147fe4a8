"""The bundled model's routing in transformers: the same weights, float32, one text at a time. Imports no vLLM."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from moetrace.tracer.bundled import MODEL

if TYPE_CHECKING:
    import torch

    from moetrace.store.shard.shard import Shard

TIE = 1e-6


class Reference:
    """The same model in transformers, one text at a time; its routers' own outputs are the truth.

    tie: probabilities that are less apart than this may be ranked either way
    """

    def __init__(self, tie: float = TIE) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch, self.tie = torch, tie
        self.model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        self._routed: list[tuple[torch.Tensor, ...]] = []
        self._choices: dict[int, dict[int, list[int]]] = {}
        for index, layer in enumerate(self.model.model.layers):
            layer.mlp.gate.register_forward_hook(partial(self._record, index))

    def _record(self, layer: int, _gate: object, _args: object, output: tuple[torch.Tensor, ...]) -> object:
        logits, weights, experts = output
        for token, chosen in self._choices.get(layer, {}).items():
            kept = logits[token].softmax(-1)[chosen]
            experts[token], weights[token] = self.torch.tensor(chosen), kept / kept.sum()
        self._routed.append((logits.softmax(-1), weights, experts))
        return logits, weights, experts

    def _route(self, token_ids: np.ndarray) -> list[np.ndarray]:
        self._routed.clear()
        with self.torch.no_grad():
            self.model(input_ids=self.torch.tensor(token_ids.astype(np.int64))[None])
            return [self.torch.stack(tensors, dim=1).numpy() for tensors in zip(*self._routed, strict=True)]

    def route(self, token_ids: np.ndarray, engine_experts: np.ndarray) -> tuple[list[np.ndarray], int]:
        """Return probabilities [T, L, E], weights and experts [T, L, k], and the number of ties.

        Where float32 cannot tell the last expert that is chosen from the first that is not (their probabilities are
        less than `tie` apart), either is right: the reference takes the engine's and goes on from there.
        """
        self._choices.clear()
        ties = 0
        while True:
            probabilities, weights, experts = self._route(token_ids)
            differs = (np.sort(experts, -1) != np.sort(engine_experts, -1)).any(-1)
            if not differs.any():
                return [probabilities, weights, experts], ties
            layer = int(differs.any(axis=0).argmax())
            for token in np.flatnonzero(differs[:, layer]).tolist():
                ordered = -np.sort(-probabilities[token, layer])
                gap = ordered[experts.shape[-1] - 1] - ordered[experts.shape[-1]]
                assert gap < self.tie, f"layer {layer}, token {token}: other experts, though {gap} apart"
                assert token not in self._choices.get(layer, {})
                self._choices.setdefault(layer, {})[token] = engine_experts[token, layer].tolist()
                ties += 1


def in_rank_order(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Return experts and weights [T, L, k], those of a token by falling weight."""
    experts, weights = (values.transpose(2, 0, 1) for values in (shard.experts, shard.weights))
    order = np.argsort(-weights, axis=-1, kind="stable")
    return np.take_along_axis(experts, order, -1), np.take_along_axis(weights, order, -1)
