"""The tap against transformers: same weights, float32, every token and layer of two corpora."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.store.errors import CaptureError
from moetrace.tracer.bundled import CORPUS, MODEL
from tests.reference.routing import Reference, in_rank_order
from tests.support.stress import preemptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.plan.plan import Plan

pytestmark = pytest.mark.engine

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def assert_same_routing(shards: Iterable[Shard], plan: Plan, reference: Reference) -> float:
    """Compare every token of a plan, and of what was generated after its texts; return the largest weight error."""
    error = 0.0
    planned = {(shard.lang, shard.number): shard for shard in plan.shards}
    ties = 0
    for shard in shards:
        expected = planned.pop((shard.lang, shard.number))
        experts, weights = in_rank_order(shard)
        start = 0
        for index, prompt in enumerate(expected.token_ids):
            rows = slice(start, start + int(shard.lengths[index]))
            start = rows.stop
            token_ids = shard.token_ids[rows]
            assert token_ids[: len(prompt)].tolist() == prompt.tolist()
            assert len(token_ids) == len(prompt) + (0 if shard.generated is None else shard.generated[index])
            (probabilities, want_weights, want_experts), found = reference.route(token_ids, experts[rows])
            ties += found
            where = f"{shard.lang} {expected.text_ids[index]}"
            assert np.array_equal(np.sort(experts[rows], -1), np.sort(want_experts, -1)), where
            error = max(error, float(np.abs(weights[rows] + np.sort(-want_weights, -1)).max()))
            assert error < TOLERANCE, where
            assert np.abs(shard.profiles[:, index] - probabilities.mean(axis=0)).max() < TOLERANCE, where
        assert start == shard.tokens
    assert not planned, "shards that were planned and never came"
    assert ties <= 1e-5 * plan.tokens * experts.shape[1], f"{ties} ties are more than chance"
    return error


def test_the_bundled_corpus_is_routed_as_in_transformers(
    engine: TracedEngine, plan_of: Callable[..., Plan], reference: Reference, mode_result: Callable[..., None]
) -> None:
    plan = plan_of(CORPUS)
    error = assert_same_routing(engine.trace(plan.shards), plan, reference)
    mode_result("eager prefill", "tested", 1.0, error)


def test_udhr_is_routed_as_in_transformers(
    engine: TracedEngine, plan_of: Callable[..., Plan], reference: Reference, shared_data: Path
) -> None:
    plan = plan_of(shared_data / "udhr")
    assert_same_routing(engine.trace(plan.shards), plan, reference)


def test_chunked_prefill_prefix_caching_and_preemption_change_nothing(
    stressed: TracedEngine,
    plan_of: Callable[..., Plan],
    reference: Reference,
    shared_data: Path,
    mode_result: Callable[..., None],
) -> None:
    # Long texts, given twice, in 64-token chunks of many texts at once, with a cache of four blocks.
    plan = plan_of(shared_data / "udhr", languages=("eng_Latn", "tam_Taml"))
    preempted = preemptions(stressed)
    assert_same_routing(stressed.trace(plan.shards), plan, reference)
    assert preempted, "the cache was large enough: nothing was preempted, nothing was tested"
    error = assert_same_routing(stressed.trace(plan.shards), plan, reference)
    mode_result("chunked prefill, prefix caching, preemption", "tested", 1.0, error)


def generation(new_tokens: int, temperature: float = 0.0) -> Generation:
    from transformers import AutoTokenizer

    from moetrace.tracer.engine.generation import Generation

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return Generation(new_tokens, tokenizer.decode, (tokenizer.eos_token_id,), temperature, seed=7)


def test_generated_tokens_are_routed_as_in_transformers_chunked_and_preempted_too(
    engine: TracedEngine,
    stressed: TracedEngine,
    plan_of: Callable[..., Plan],
    reference: Reference,
    mode_result: Callable[..., None],
) -> None:
    plan = plan_of(CORPUS, languages=("eng_Latn", "swh_Latn"), window=24)
    greedy = generation(12)
    shards = list(engine.trace(plan.shards, generation=greedy))
    error = assert_same_routing(shards, plan, reference)
    generated = np.concatenate([shard.generated for shard in shards])
    assert generated.max() == 12
    assert generated.min() < 12, "no text ended by itself: stopping was not tested"
    again = {shard.key: shard for shard in stressed.trace(plan.shards, generation=greedy)}
    for shard in shards:
        assert np.array_equal(again[shard.key].token_ids, shard.token_ids)
        assert np.array_equal(in_rank_order(again[shard.key])[0], in_rank_order(shard)[0])
        assert np.abs(again[shard.key].profiles - shard.profiles).max() < TOLERANCE
    mode_result("decoding", "tested", 1.0, error)


def test_sampling_depends_on_the_text_and_the_seed_and_nothing_else(
    engine: TracedEngine, plan_of: Callable[..., Plan]
) -> None:
    plan = plan_of(CORPUS, languages=("eng_Latn",), shard_tokens=300, window=12)
    sampled = generation(6, temperature=0.9)
    forward = {shard.key: shard.texts for shard in engine.trace(plan.shards[:3], generation=sampled)}
    backward = {shard.key: shard.texts for shard in engine.trace(plan.shards[2::-1], generation=sampled)}
    assert forward == backward
    other = {shard.key: shard.texts for shard in engine.trace(plan.shards[:3], generation=replace(sampled, seed=8))}
    assert other != forward


def test_steps_that_travel_and_are_put_together_by_a_thread_are_routed_as_in_transformers(
    engine: TracedEngine, plan_of: Callable[..., Plan], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moetrace.tracer.worker.background import InBackground
    from moetrace.tracer.worker.profiles import ProbabilityRows
    from moetrace.tracer.worker.transfer import StreamTransfer
    from tests.support.streams import Streams

    tap = worker_of(engine).moetrace_seam.tap
    buffers = tap.tap.buffers
    layers, requests, experts = buffers.profiles.shape
    rows = ProbabilityRows(layers, buffers.ids.shape[2], experts, requests, "softmax", buffers.ids.device)
    beside_gpu, work = replace(buffers, profiles=rows), InBackground(begin=lambda: None)
    plan = plan_of(CORPUS, languages=("eng_Latn", "swh_Latn"), window=24)
    with monkeypatch.context() as patched:
        patched.setattr(tap.tap, "buffers", beside_gpu)
        patched.setattr(tap, "_transfer", StreamTransfer(beside_gpu, Streams()))
        patched.setattr(tap, "_work", work)
        assert_same_routing(engine.trace(plan.shards), plan, reference)
        shards = list(engine.trace(plan.shards, generation=generation(12)))
        assert_same_routing(shards, plan, reference)
        assert sum(shard.generated.sum() for shard in shards)
    work.close()
    assert_same_routing(engine.trace(plan.shards), plan, reference)


def test_a_step_that_the_tap_misses_fails_the_trace(
    stressed: TracedEngine, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = worker_of(stressed).moetrace_seam.tap._transfer
    send, steps = transfer.send, iter(range(10**6))
    shards = plan_of(CORPUS, languages=("eng_Latn",)).shards
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "send", lambda *step: send(*step) if next(steps) != 2 else None)
        with pytest.raises(CaptureError, match=r"positions \d+ to \d+ were never computed|without computing"):
            list(stressed.trace(shards))
    assert [shard.number for shard in stressed.trace(shards)] == [0], "a failed trace spoils the next"


def test_a_tap_that_repeats_a_row_is_noticed_at_start_up(engine: TracedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = worker_of(engine).moetrace_seam.tap.tap.buffers
    transfer = worker_of(engine).moetrace_seam.tap._transfer
    send = transfer.send

    def repeating(*step: object) -> None:
        for tensor in (buffers.ids, buffers.weights):
            tensor[:, :, 5:40] = tensor[:, :, 4:39].clone()
        buffers.logits[:, 5:40] = buffers.logits[:, 4:39].clone()
        send(*step)

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "send", repeating)
        with pytest.raises(CaptureError, match="the tap or the engine mixes up rows"):
            engine._probe()
    engine._probe()


def worker_of(engine: TracedEngine) -> Any:
    return engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker


def test_a_layer_that_the_tap_does_not_see_fails_the_trace(
    engine: TracedEngine, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    model = worker_of(engine).model_runner.get_model()
    router = [module for module in model.modules() if isinstance(module, MoERunner)][3].router
    shards = plan_of(CORPUS, languages=("eng_Latn",)).shards
    with monkeypatch.context() as patched:
        patched.delattr(router, "_compute_routing")  # the wrapper goes, the class's own method is back
        with pytest.raises(CaptureError, match="layer 3: the tap saw nothing"):
            list(engine.trace(shards))
    assert [shard.number for shard in engine.trace(shards)] == [0], "a failed trace spoils the next"


def test_a_step_that_runs_past_the_row_map_is_refused(
    engine: TracedEngine, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    monkeypatch.setattr(worker.moetrace_seam._hook, "begin", lambda _: None)
    with pytest.raises(CaptureError, match="ran a step past the hook"):
        list(engine.trace(plan_of(languages=("swh_Latn",)).shards))
    monkeypatch.undo()
    assert len(list(engine.trace(plan_of(languages=("swh_Latn",)).shards))) > 0
