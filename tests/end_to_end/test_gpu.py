"""What only a GPU can show: `make test-gpu`, on a machine with one. Nobody has run it yet; docs/limits.md says so.

MOETRACE_GPU_TESTS_ON_CPU=1 runs what of it a CPU can run, to see that it would run. Engines are small, follow each
other and give their memory back; float32 is exact here, where a GPU would multiply in TF32.
"""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.tracer.bundled import MODEL
from tests.support.modes import EAGER, arrays, assert_steered, plan, traced

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.plan.plan import Plan
    from tests.reference.routing import Reference

pytestmark = pytest.mark.gpu

ON_CPU = bool(os.environ.get("MOETRACE_GPU_TESTS_ON_CPU"))
DEVICE = "cpu" if ON_CPU else "cuda"
# A GPU adds in another order than a CPU, and than itself in a graph: near ties of float32 go either way.
SAME, TIE, PROFILE_ERROR = 0.999, 1e-4, 1e-4
SHARED_GPU = {} if ON_CPU else {"gpu_memory_utilization": 0.3}  # of the memory that must be free at the start
os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # read by Triton: no TF32 in the experts and in attention

needs_streams = pytest.mark.skipif(ON_CPU, reason="a CPU has no streams")


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    import torch

    if not ON_CPU and not torch.cuda.is_available():
        pytest.fail("no GPU here: nothing would be tested")


def start(settings: EngineSettings) -> TracedEngine:
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.model.facts import read_facts

    options = {**SHARED_GPU, **settings.options}
    if not settings.eager and not ON_CPU:
        options["compilation_config"] = {"cudagraph_capture_sizes": [2**power for power in range(9)]}
    settings = replace(settings, kv_cache_gib=settings.kv_cache_gib or 0.5, options=options)
    return TracedEngine(read_facts(str(MODEL)), settings)


def release() -> None:
    """Give the memory of closed engines back."""
    import torch

    gc.collect()
    if not ON_CPU:
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def plan_here() -> Plan:
    return plan()


@pytest.fixture(scope="module")
def eager() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the eager engine traces, in float32, plain and steered; and what it traces when it does so again."""
    engine = start(EAGER)
    found = traced(engine)
    again = arrays(list(engine.trace(plan().shards)))
    engine.close()
    del engine
    release()
    return found, again


@pytest.fixture(scope="module")
def graphs(eager: Any) -> dict[str, np.ndarray]:  # noqa: ARG001  one engine after the other
    """The same from an engine that is compiled and, on a GPU, replays CUDA graphs: its steps are none too long."""
    engine = start(replace(EAGER, eager=False, max_num_batched_tokens=256))
    if not ON_CPU:
        mode = engine.llm.llm_engine.vllm_config.compilation_config.cudagraph_mode
        assert mode.name != "NONE", "nothing is captured: this would be the eager engine again"
    found = traced(engine)
    engine.close()
    del engine
    release()
    return found


@pytest.fixture(scope="module")
def reference() -> Reference:
    from tests.reference.routing import Reference

    return Reference(TIE)


def same_sets(one: np.ndarray, other: np.ndarray) -> float:
    """The share of rows and layers with the same experts; both are [L, k, T]."""
    return float((np.sort(one, axis=1) == np.sort(other, axis=1)).all(axis=1).mean())


def assert_routed_like(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        if name.endswith("experts"):
            assert same_sets(found[name], want) > SAME, name
        elif name.endswith("profiles"):
            assert np.abs(found[name] - want).max() < PROFILE_ERROR, name
        elif name.endswith(("token_ids", "lengths")):
            assert np.array_equal(found[name], want), name


class Way:
    """A small model's buffers on a device, and the transfer that vLLM's worker would have for them."""

    def __init__(self, device: str) -> None:
        import torch

        from moetrace.tracer.worker.buffers import StepBuffers
        from moetrace.tracer.worker.transfer import make_transfer
        from tests.support.steps import EXPERTS, LAYERS, PROBED, REQUESTS, TOKENS, TOP_K

        shape = (LAYERS * [1.0], TOKENS, EXPERTS, TOP_K, torch.device(device))
        options = {"logit_rows": PROBED, "requests": REQUESTS, "static": device != "cpu"}
        self.buffers = StepBuffers.make(*shape, scoring="softmax", **options)
        self.transfer, self.device = make_transfer(self.buffers), device

    def send(self, seed: int, counts: list[int], before: Callable[[], None] = lambda: None) -> Any:
        """Run a drawn step and send it, `before` which something happens; return its token ids, on the device."""
        import torch

        from tests.support.steps import routed_step

        step = routed_step(np.random.default_rng(seed), counts)
        parts = {name: getattr(step, name).to(self.device) for name in ("ids", "weights", "logits")}
        step = replace(step, token_ids=step.token_ids.to(self.device, torch.int32), **parts)
        self.transfer.before_forward(step.rows, step.token_ids)
        step.write(self.buffers)
        before()
        self.transfer.send()
        return step.token_ids

    def receive(self) -> list[tuple[np.ndarray, ...]]:
        """What has arrived: ids, weights, sums of probabilities and token ids of each step."""
        return [
            tuple(map(np.array, (step.experts, step.weights, step.probability_sums, step.token_ids)))
            for _, step in self.transfer.receive()
        ]


def test_steps_travel_as_on_a_cpu() -> None:
    here, on_cpu = Way(DEVICE), Way("cpu")
    found, expected = [], []
    for seed in range(200):
        for way, into in ((here, found), (on_cpu, expected)):
            way.send(seed, [5, 1, 7])
            into.extend(way.receive())
    assert len(found) == len(expected)
    for step, (ids, weights, sums, token_ids) in zip(found, expected, strict=True):
        assert np.array_equal(step[0], ids)
        assert np.array_equal(step[1], weights)
        assert np.abs(step[2] - sums).max() < 1e-5
        assert np.array_equal(step[3], token_ids)


@needs_streams
def test_the_token_ids_of_a_step_are_kept_though_the_next_are_written_before_they_have_travelled() -> None:
    """vLLM has one buffer of token ids, and fills it before it says that the next forward pass begins."""
    import torch

    here = Way(DEVICE)

    def delay() -> None:
        with here.transfer._streams.on_side():
            torch.cuda._sleep(100_000_000)  # the side stream is late

    token_ids = here.send(0, [5, 1, 7], delay)
    expected = token_ids[:13].cpu().numpy().copy()
    token_ids.fill_(-7)
    ((*_, found),) = here.receive()
    assert np.array_equal(found, expected)


@needs_streams
def test_the_host_does_not_wait_for_the_device_when_it_sends_a_step() -> None:
    import torch

    here, passed = Way(DEVICE), torch.cuda.Event()

    def forward(cycles: int) -> None:
        torch.cuda._sleep(cycles)
        passed.record()

    for cycles in (0, 1_000_000_000):  # the first time something may be loaded, which waits
        here.send(0, [5, 1, 7], partial(forward, cycles))
        waited = passed.query()
        assert len(here.receive()) == 1
    assert not waited, "the next forward pass cannot be launched before this one has ended"


def test_sums_of_probabilities_are_the_same_bits_every_time() -> None:
    here, sums = Way(DEVICE), []
    for _ in range(20):
        here.send(0, [5, 1, 7, 11])
        sums += [step[2] for step in here.receive()]
    assert len(sums) == 20
    assert all(np.array_equal(each, sums[0]) for each in sums)


def test_an_engine_traces_the_same_twice(eager: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
    found, again = eager
    assert_routed_like(again, {name: array for name, array in found.items() if not name.startswith("steered")})


def test_a_gpu_routes_as_transformers(
    eager: tuple[dict[str, np.ndarray], dict[str, np.ndarray]], plan_here: Plan, reference: Reference
) -> None:
    found, ties, tokens = eager[0], 0, 0
    for planned in plan_here.shards:
        if planned.lang != "swh_Latn":
            continue
        experts, start = found[f"{planned.key} experts"].transpose(2, 0, 1), 0
        for ids in planned.token_ids:
            rows = slice(start, start + len(ids))
            start = rows.stop
            (_, _, want), near = reference.route(ids, experts[rows])
            assert np.array_equal(np.sort(experts[rows], -1), np.sort(want, -1)), planned.key
            ties, tokens = ties + near, tokens + len(ids)
    assert ties < (1 - SAME) * tokens * experts.shape[1]


def test_graphs_route_as_the_eager_engine(
    graphs: dict[str, np.ndarray], eager: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> None:
    assert_routed_like(graphs, eager[0])


def test_what_is_promoted_is_chosen_in_every_steered_row(
    graphs: dict[str, np.ndarray], eager: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> None:
    assert_steered(eager[0], SAME)
    assert_steered(graphs, SAME)


def test_chunks_caches_and_preemption_change_no_routing_and_no_profile() -> None:
    from tests.support.stress import STRESSED, long_texts, preemptions

    calm = start(replace(EAGER, steering=False))
    expected = arrays(list(calm.trace([long_texts()])))
    calm.close()
    del calm
    release()
    stressed = start(STRESSED)
    preempted = preemptions(stressed)
    found = [arrays(list(stressed.trace([long_texts()]))) for _ in range(2)]  # the second time with a warm cache
    stressed.close()
    del stressed
    release()
    assert preempted, "the cache was large enough: nothing was preempted, nothing was tested"
    for each in found:
        assert_routed_like(each, expected)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graphs"])
def test_an_engine_in_bfloat16_routes_by_the_rule_while_it_decodes(compiled: bool) -> None:  # noqa: FBT001
    """The self-check at the start replays a step of prefill; here one of decoding is."""
    from moetrace.tracer.engine.generation import Generation
    from tests.support.probed import trace_and_replay

    engine = start(replace(EAGER, dtype="bfloat16", steering=False, eager=not compiled))
    twelve = Generation(12, lambda _: "", ignore_eos=True)
    found, shards = trace_and_replay(engine, plan().shards[:1], 5, twelve)
    engine.close()
    del engine
    release()
    assert len(found[0].experts) == sum(len(shard.lengths) for shard in shards), "the step was none of decoding"
    assert all((shard.generated == 12).all() for shard in shards)


def test_somebodys_own_engine_is_recorded(reference: Reference, tmp_path: Path) -> None:
    from vllm import LLM, SamplingParams

    from moetrace.tracer.recording import attach
    from tests.support.recorded import routing_of

    llm = LLM(
        model=str(MODEL),
        dtype="float32",
        max_model_len=256,
        enforce_eager=True,
        kv_cache_memory_bytes=2**28,
        disable_log_stats=True,
        **SHARED_GPU,
    )
    prompts = [np.random.default_rng(seed).integers(10, 8000, 20 + 7 * seed).tolist() for seed in range(8)]
    params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    with attach.traced(llm, tmp_path / "store") as trace:
        trace.language, names = "eng_Latn", iter(range(8))
        trace.text_id = lambda _: f"t{next(names)}"
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()
    del llm
    release()
    assert trace.sequences == len(prompts)
    for number, output in enumerate(outputs):
        token_ids, experts = routing_of(tmp_path / "store", f"t{number}")
        assert token_ids == [*prompts[number], *output.outputs[0].token_ids[:-1]]
        (_, _, want), _ = reference.route(np.array(token_ids), experts)
        assert np.array_equal(experts, np.sort(want, -1))


@pytest.mark.parametrize("name", ["qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3"])
def test_masked_experts_move_in_bfloat16_and_nothing_else_does(name: str, tmp_path: Path) -> None:
    from tests.support.masked import assert_the_mask_moves_and_nothing_else

    assert_the_mask_moves_and_nothing_else(name, tmp_path, "bfloat16", DEVICE)


def test_a_whole_training_changes_the_mask_and_nothing_else(tmp_path: Path) -> None:
    from tests.support.trained import train_and_merge

    found = train_and_merge(tmp_path, 20)
    assert found.changed
    assert found.changed <= found.masked
    assert found.result.losses[0].after < found.result.losses[0].before
