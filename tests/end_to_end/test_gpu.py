"""What only a GPU can show: `make test-gpu`, on a machine with one. Nobody has run it yet; the README says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.plan.plan import Plan
    from moetrace.tracer.worker.transfer import Transfer

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.fail("no GPU here: nothing would be tested")


def routed(dtype: str, plan: Plan, *, eager: bool) -> dict[str, Shard]:
    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import read_facts

    engine = TracedEngine(read_facts(str(MODEL)), EngineSettings(dtype=dtype, max_model_len=1024, eager=eager))
    try:
        return {shard.key: shard for shard in engine.trace(plan.shards)}
    finally:
        engine.close()


def copied(transfer: Transfer, *, wait: bool) -> list[tuple[np.ndarray, ...]]:
    """Return ids, weights and sums of the steps that arrived."""
    return [
        (step.experts.copy(), step.weights.copy(), np.array(step.probability_sums))
        for _, step in transfer.receive(wait=wait)
    ]


def test_steps_travel_on_a_stream_of_their_own_unchanged() -> None:
    import torch

    from moetrace.tracer.worker.buffers import StepBuffers
    from moetrace.tracer.worker.memory import tap_memory
    from moetrace.tracer.worker.transfer import CudaStreams, DirectTransfer, StreamTransfer
    from tests.support.steps import EXPERTS, LAYERS, PROBED, REQUESTS, TOKENS, TOP_K, make_buffers, routed_step

    device = torch.device("cuda")
    before = torch.cuda.memory_allocated()
    buffers = StepBuffers.make(
        LAYERS * [1.0],
        TOKENS,
        EXPERTS,
        TOP_K,
        device,
        logit_rows=PROBED,
        scoring="softmax",
        requests=REQUESTS,
        static=True,
    )
    transfer = StreamTransfer(buffers, CudaStreams())
    said = tap_memory(LAYERS, EXPERTS, TOP_K, TOKENS, REQUESTS, static=True).device
    assert torch.cuda.memory_allocated() - before <= said + 512 * 12, "CUDA's allocator rounds each tensor up"
    on_cpu = make_buffers()
    direct, rng = DirectTransfer(on_cpu), np.random.default_rng(0)
    wanted, found = [], []
    for number in range(200):
        step = routed_step(rng, [[5, 1, 7], [1] * 8, [TOKENS]][number % 3])
        direct.before_forward(step.rows, step.token_ids)
        step.write(on_cpu)
        direct.send()
        wanted += copied(direct, wait=True)
        step = step.on(device)
        transfer.before_forward(step.rows, step.token_ids)
        step.write(buffers)
        transfer.send()
        found += copied(transfer, wait=False)
    found += copied(transfer, wait=True)
    assert len(found) == len(wanted)
    for (ids, weights, sums), (want_ids, want_weights, want_sums) in zip(found, wanted, strict=True):
        assert np.array_equal(ids, want_ids)
        assert np.array_equal(weights, want_weights)
        assert np.abs(sums - want_sums).max() < 1e-5


def test_cuda_graphs_route_as_the_eager_engine(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(languages=("eng_Latn", "swh_Latn"))
    eager, graphs = (routed("float32", plan, eager=mode) for mode in (True, False))
    same = [
        (np.sort(eager[key].experts, 1) == np.sort(shard.experts, 1)).all(1).mean() for key, shard in graphs.items()
    ]
    assert min(same) > 0.999


def test_a_gpu_routes_as_transformers(plan_of: Callable[..., Plan]) -> None:
    from tests.reference.routing import Reference, in_rank_order

    plan = plan_of(languages=("swh_Latn",))
    reference = Reference()
    for key, shard in routed("float32", plan, eager=True).items():
        experts, _ = in_rank_order(shard)
        start = 0
        for length in shard.lengths:
            rows = slice(start, start + int(length))
            start = rows.stop
            (_, _, want), _ = reference.route(shard.token_ids[rows], experts[rows])
            assert np.array_equal(np.sort(experts[rows], -1), np.sort(want, -1)), key
