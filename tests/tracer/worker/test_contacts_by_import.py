"""What a version of vLLM shows to whoever imports it: `make test-newest` runs this with its GPU build, without a GPU.

It starts no engine. A router and a batch of vLLM's own classes go through the seam and the hook that an engine would
send them through.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moetrace.tracer.worker.contacts import CONTACTS, missing_contacts
from tests.support.paths import ROOT

pytestmark = pytest.mark.engine

MOE = "vllm.model_executor.layers.fused_moe"
# Who calls what the tap puts itself in the place of; of several names, one that is called after the first.
CALLS = {
    f"{MOE}.runner.moe_runner:MoERunner._apply_quant_method": ("select_experts",),
    f"{MOE}.router.base_router:BaseRouter._select_experts": ("_compute_routing",),
    "vllm.v1.worker.gpu_worker:Worker.execute_model": ("execute_model",),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model": ("_model_forward",),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.execute_model": ("prepare_inputs", "run_fullgraph", "model"),
}


def found(contact: str) -> Any:
    module, _, path = contact.partition(":")
    value: Any = importlib.import_module(module)
    for name in path.split("."):
        value = getattr(value, name)
    return value


def imported_of_vllm() -> set[tuple[str, str]]:
    """(module, name) of every `from vllm… import …` in the tracer, those for type checkers included."""
    return {
        (str(node.module), alias.name)
        for path in (ROOT / "tracer").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "vllm"
        for alias in node.names
    }


def test_each_attribute_that_the_tap_relies_on_exists() -> None:
    assert len(CONTACTS) > 20
    assert missing_contacts() == []


def test_all_that_is_imported_of_vllm_is_there() -> None:
    names = imported_of_vllm()
    assert len(names) > 10
    assert [name for module, name in sorted(names) if not hasattr(importlib.import_module(module), name)] == []


def test_the_worker_is_vllms_own_with_a_seam() -> None:
    from vllm.v1.worker.gpu_worker import Worker

    from moetrace.tracer.worker.worker import TracedWorker

    assert issubclass(TracedWorker, Worker)
    inspect.signature(Worker.load_model).bind(object())
    inspect.signature(Worker.execute_model).bind(object(), object())  # as the seam calls it: with a step alone


@pytest.mark.parametrize("caller", CALLS)
def test_what_the_tap_stands_in_for_is_called(caller: str) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(found(caller))))
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            lines[node.func.attr] = min(node.lineno, lines.get(node.func.attr, node.lineno))
    first, *later = CALLS[caller]
    assert first in lines
    assert all(lines[first] < lines[name] for name in later)


def test_every_router_takes_what_the_seam_gives_it() -> None:
    from vllm.model_executor.layers.fused_moe import router as package
    from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter

    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("router"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    routers = [BaseRouter]
    for router in routers:
        routers += router.__subclasses__()
    routers = [router for router in routers if router.__module__.startswith("vllm.")]
    assert len(routers) > 4
    for router in routers:
        names = list(inspect.signature(router._compute_routing).parameters)
        assert names[:4] == ["self", "hidden_states", "router_logits", "indices_type"], router


def small_runner(layer: int, scale: float) -> Any:
    """Return vLLM's runner of a layer of six experts, of which its router chooses two."""
    import torch
    from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    class Router(BaseRouter):
        routing_method_type = None

        def _compute_routing(self, hidden_states: Any, router_logits: Any, indices_type: Any, **_: Any) -> Any:  # noqa: ARG002
            weights, ids = router_logits.softmax(-1).topk(self.top_k)
            return weights, ids.to(indices_type)

    class Runner(MoERunner):
        layer_id, is_monolithic, routed_scaling_factor = layer, False, scale
        moe_config = SimpleNamespace(is_sequence_parallel=False)

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.router = Router(top_k=2, global_num_experts=6)

    return Runner()


@pytest.mark.parametrize("compiled", [False, True])
def test_the_seam_sees_what_a_router_of_vllm_chooses(compiled: bool) -> None:  # noqa: FBT001
    import torch

    from moetrace.tracer.worker.routers import RouterSeam

    class Copies:
        """A tap whose layers are one."""

        def __init__(self) -> None:
            self.seen: list[tuple[torch.Tensor, ...]] = []
            self.probing, self.witnesses = True, [torch.zeros(1)]

        def record(self, index: int, *routed: torch.Tensor, probing: bool) -> None:
            assert (index, probing) == (0, True)
            self.seen.append(tuple(each.clone() for each in routed))

    model = torch.nn.Sequential(runner := small_runner(3, 2.0))
    seam = RouterSeam(model, compiled=compiled)
    assert (seam.layers, seam.num_experts, seam.top_k, seam.scales) == ([3], 6, 2, [2.0])
    seam.tap = copies = Copies()
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    weights, ids = runner.router.select_experts(
        hidden_states=torch.zeros(5, 4), router_logits=logits, topk_indices_dtype=torch.int32
    )
    assert ids.dtype == torch.int32
    (seen,) = copies.seen
    assert all(torch.equal(one, other) for one, other in zip(seen, (ids, weights, logits), strict=True))
    seam.remove()
    assert "_compute_routing" not in vars(runner.router)


def test_a_compiler_makes_no_copy_of_what_recording_writes() -> None:
    """Buffers of all layers that a compiled step was known to write were copied whole once a layer."""
    import torch
    from torch._dynamo.backends.common import aot_autograd

    from moetrace.tracer.worker.router_tap import RouterTap
    from moetrace.tracer.worker.routers import RouterSeam

    model = torch.nn.ModuleList([small_runner(layer, 1.0) for layer in range(3)])
    seam = RouterSeam(model, compiled=True)
    tap = seam.tap = RouterTap(seam, 50, 8, torch.device("cpu"), {"scoring": "softmax", "profiles": True})
    sizes: list[int] = []

    def measure(graph: torch.fx.GraphModule, _: Any) -> Any:
        values = [node.meta.get("val") for node in graph.graph.nodes]
        sizes.extend(value.numel() for value in values if isinstance(value, torch.Tensor))
        return graph

    @torch.compile(backend=aot_autograd(fw_compiler=measure), fullgraph=True)
    def routed(logits: torch.Tensor) -> torch.Tensor:
        return sum(
            runner.router._compute_routing(logits, logits * (1 + runner.layer_id), torch.int32)[0] for runner in model
        )

    for seed in range(2):
        tap.buffers.ids.fill_(255)
        logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
        assert routed(logits).shape == (5, 2)
        for layer in range(3):
            weights, ids = (logits * (1 + layer)).softmax(-1).topk(2)
            assert torch.equal(tap.buffers.ids[layer, :, :5].T.long(), ids), layer
            assert torch.equal(tap.buffers.weights[layer, :, :5].T, weights), layer
            assert torch.equal(tap.buffers.logits[layer, :5], logits * (1 + layer)), layer
            assert (tap.buffers.ids[layer, :, 5:] == 255).all()
    assert max(sizes) == logits.numel(), "something as large as a buffer is in the graph"
    seam.remove()


def test_the_hook_reads_a_batch_of_the_second_model_runner() -> None:
    import torch
    from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

    from moetrace.tracer.worker.rows import Batch, BatchHook

    batch = InputBatch.make_dummy(3, 7, InputBuffers(4, 16, torch.device("cpu")))
    batch.num_computed_tokens_np[:] = (0, 5, 9)
    batches: list[Batch] = []
    runner = SimpleNamespace(prepare_inputs=lambda *_: batch)
    hook = BatchHook(SimpleNamespace(model_runner=runner, use_v2_model_runner=True), batches.append)
    counts = dict(zip(batch.req_ids, (2, 2, 3), strict=True))
    hook.begin(SimpleNamespace(num_scheduled_tokens=counts))  # type: ignore[arg-type]
    assert runner.prepare_inputs("step", "state") is batch
    (told,) = batches
    assert list(told.rows.requests) == batch.req_ids
    assert told.rows.starts.tolist() == [0, 5, 9]
    assert told.rows.counts.tolist() == [2, 2, 3]
    assert told.token_ids is batch.input_ids
    assert len(told.token_ids) >= np.sum(told.rows.counts)
