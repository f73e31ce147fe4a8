"""The tap against transformers: same weights, float32, every token and layer of two corpora."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from store import CaptureError, Shard
from tracer.bundled import CORPUS, MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tracer.engine import TracedEngine
    from tracer.plan import Plan

pytestmark = pytest.mark.engine

TOLERANCE = 1e-5


class Reference:
    """The same model in transformers, one text at a time; routing recomputed from what enters each router."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        self.top_k = self.model.config.num_experts_per_tok
        self._inputs: list[torch.Tensor] = []
        self._gates = [layer.mlp.gate for layer in self.model.model.layers]
        for gate in self._gates:
            gate.register_forward_pre_hook(lambda _, args: self._inputs.append(args[0]))

    def route(self, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return experts and weights [T, L, k], by descending weight, and probabilities [T, L, E]."""
        torch = self.torch
        self._inputs.clear()
        with torch.no_grad():
            self.model(input_ids=torch.tensor(token_ids.astype(np.int64))[None])
            hidden = [x.reshape(-1, x.shape[-1]) for x in self._inputs]
            logits = torch.stack([x @ gate.weight.T for x, gate in zip(hidden, self._gates, strict=True)], dim=1)
            probabilities = torch.softmax(logits, dim=-1)
            weights, experts = probabilities.topk(self.top_k, dim=-1)
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return experts.numpy(), weights.numpy(), probabilities.numpy()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def in_rank_order(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-shard.weights, axis=-1, kind="stable")
    return np.take_along_axis(shard.experts, order, -1), np.take_along_axis(shard.weights, order, -1)


def assert_same_routing(shards: Iterable[Shard], plan: Plan, reference: Reference) -> None:
    planned = {(shard.lang, shard.number): shard for shard in plan.shards}
    for shard in shards:
        expected = planned.pop((shard.lang, shard.number))
        assert shard.token_ids.tolist() == np.concatenate(expected.token_ids).tolist()
        experts, weights = in_rank_order(shard)
        start = 0
        for index, token_ids in enumerate(expected.token_ids):
            rows = slice(start, start + len(token_ids))
            start += len(token_ids)
            want_experts, want_weights, probabilities = reference.route(token_ids)
            where = f"{shard.lang} {expected.text_ids[index]}"
            assert np.array_equal(np.sort(experts[rows], -1), np.sort(want_experts, -1)), where
            assert np.abs(weights[rows] - want_weights).max() < TOLERANCE, where
            assert np.abs(shard.profiles[index] - probabilities.mean(axis=0)).max() < TOLERANCE, where
    assert not planned, "shards that were planned and never came"


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
    plan_of: Callable[..., Plan], reference: Reference, shared_data: Path
) -> None:
    from tracer.engine import EngineSettings, TracedEngine
    from tracer.families import read_facts

    # Long texts, given twice, in 64-token chunks of many texts at once, with a cache that holds only some of them.
    plan = plan_of(shared_data / "udhr", languages=("eng_Latn", "tam_Taml"))
    settings = EngineSettings(
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=256,
        prefix_caching=True,
        kv_cache_gib=0.012,
        options={"long_prefill_token_threshold": 64},
    )
    stressed = TracedEngine(read_facts(str(MODEL)), settings)
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
    monkeypatch.delattr(router, "_compute_routing")  # the wrapper goes, the class's own method is back
    with pytest.raises(CaptureError, match="layer 3: the tap saw nothing"):
        list(engine.trace(plan_of(CORPUS, languages=("eng_Latn",)).shards))
