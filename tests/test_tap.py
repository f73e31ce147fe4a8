"""The tap against transformers: same weights, float32, every token and layer of two corpora."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from store import CaptureError, Shard
from tracer.bundled import CORPUS, MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import torch

    from tracer.engine import TracedEngine
    from tracer.plan import Plan

pytestmark = pytest.mark.engine

TOLERANCE = 1e-5
TIE = 1e-6


class Reference:
    """The same model in transformers, one text at a time; its routers' own outputs are the truth."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
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
        less than 1e-6 apart), either is right: the reference takes the engine's and goes on from there.
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
                assert gap < TIE, f"layer {layer}, token {token}: other experts, though {gap} apart"
                assert token not in self._choices.get(layer, {})
                self._choices.setdefault(layer, {})[token] = engine_experts[token, layer].tolist()
                ties += 1


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def in_rank_order(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-shard.weights, axis=-1, kind="stable")
    return np.take_along_axis(shard.experts, order, -1), np.take_along_axis(shard.weights, order, -1)


def assert_same_routing(shards: Iterable[Shard], plan: Plan, reference: Reference) -> None:
    planned = {(shard.lang, shard.number): shard for shard in plan.shards}
    ties = 0
    for shard in shards:
        expected = planned.pop((shard.lang, shard.number))
        assert shard.token_ids.tolist() == np.concatenate(expected.token_ids).tolist()
        experts, weights = in_rank_order(shard)
        start = 0
        for index, token_ids in enumerate(expected.token_ids):
            rows = slice(start, start + len(token_ids))
            start += len(token_ids)
            (probabilities, want_weights, want_experts), found = reference.route(token_ids, experts[rows])
            ties += found
            where = f"{shard.lang} {expected.text_ids[index]}"
            assert np.array_equal(np.sort(experts[rows], -1), np.sort(want_experts, -1)), where
            assert np.abs(weights[rows] + np.sort(-want_weights, -1)).max() < TOLERANCE, where
            assert np.abs(shard.profiles[index] - probabilities.mean(axis=0)).max() < TOLERANCE, where
    assert not planned, "shards that were planned and never came"
    assert ties <= 1e-5 * plan.tokens * experts.shape[1], f"{ties} ties are more than chance"


def test_the_bundled_corpus_is_routed_as_in_transformers(
    engine: TracedEngine, plan_of: Callable[..., Plan], reference: Reference
) -> None:
    plan = plan_of(CORPUS)
    assert_same_routing(engine.trace(plan.shards), plan, reference)


def test_udhr_is_routed_as_in_transformers(
    engine: TracedEngine, plan_of: Callable[..., Plan], reference: Reference, shared_data: Path
) -> None:
    plan = plan_of(shared_data / "udhr")
    assert_same_routing(engine.trace(plan.shards), plan, reference)


def test_chunked_prefill_prefix_caching_and_preemption_change_nothing(
    stressed: TracedEngine, plan_of: Callable[..., Plan], reference: Reference, shared_data: Path
) -> None:
    # Long texts, given twice, in 64-token chunks of many texts at once, with a cache of four blocks.
    plan = plan_of(shared_data / "udhr", languages=("eng_Latn", "tam_Taml"))
    scheduler = stressed.llm.llm_engine.engine_core.engine_core.scheduler
    preempt, preempted = scheduler._preempt_request, []

    def counted(request: object, *args: object, **kwargs: object) -> object:
        preempted.append(request)
        return preempt(request, *args, **kwargs)

    scheduler._preempt_request = counted
    assert_same_routing(stressed.trace(plan.shards), plan, reference)
    assert preempted, "the cache was large enough: nothing was preempted, nothing was tested"
    assert_same_routing(stressed.trace(plan.shards), plan, reference)


def test_a_layer_that_the_tap_does_not_see_fails_the_trace(
    engine: TracedEngine, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    model = engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner.get_model()
    router = [module for module in model.modules() if isinstance(module, MoERunner)][3].router
    shards = plan_of(CORPUS, languages=("eng_Latn",)).shards
    with monkeypatch.context() as patched:
        patched.delattr(router, "_compute_routing")  # the wrapper goes, the class's own method is back
        with pytest.raises(CaptureError, match="layer 3: the tap saw nothing"):
            list(engine.trace(shards))
    assert [shard.number for shard in engine.trace(shards)] == [0], "a failed trace spoils the next"
