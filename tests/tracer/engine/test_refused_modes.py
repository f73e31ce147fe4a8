"""The modes of vLLM that cannot be traced are refused: by the engine where it can, else by the tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.engine.engine import TracedEngine
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.model.facts import read_facts

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.engine

NGRAM = {"method": "ngram", "num_speculative_tokens": 2}


@pytest.mark.parametrize(
    ("mode", "options", "reason"),
    [
        ("data parallel in one engine", {"data_parallel_size": 2}, "run one engine a device on the same store"),
        ("speculative decoding", {"speculative_config": NGRAM}, "speculative decoding"),
    ],
)
def test_a_mode_whose_rows_are_not_tokens_is_refused(
    mode: str, options: dict[str, object], reason: str, mode_result: Callable[..., None]
) -> None:
    settings = EngineSettings(dtype="float32", max_model_len=512, options=options)
    with pytest.raises(MoetraceError, match=reason):
        TracedEngine(read_facts(str(MODEL)), settings)
    mode_result(mode, "refused")


def test_expert_parallelism_on_a_cpu_is_refused_before_it_crashes() -> None:
    with pytest.raises(MoetraceError, match="MoE kernel for CPUs ignores which experts are local"):
        TracedEngine(read_facts(str(MODEL)), EngineSettings(tensor_parallel_size=2, expert_parallel=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parallel_config": {"enable_dbo": True}}, "dual-batch overlap"),
        ({"parallel_config": {"data_parallel_size": 2}}, "data parallelism"),
        ({"parallel_config": {"prefill_context_parallel_size": 2}}, "prefill context parallelism"),
    ],
)
def test_modes_that_a_cpu_turns_off_are_refused_by_the_tap(
    changes: dict[str, dict[str, object]], reason: str, engine: TracedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moetrace.tracer.worker.modes import require_mode

    config = engine.llm.llm_engine.vllm_config
    require_mode(config)
    for part, values in changes.items():
        for name, value in values.items():
            monkeypatch.setattr(getattr(config, part), name, value)
    with pytest.raises(MoetraceError, match=reason):
        require_mode(config)


def test_speculative_decoding_in_somebodys_engine_is_refused_by_the_tap(
    engine: TracedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moetrace.tracer.worker.modes import require_mode

    config = engine.llm.llm_engine.vllm_config
    monkeypatch.setattr(config, "speculative_config", object())
    with pytest.raises(MoetraceError, match="speculative decoding"):
        require_mode(config)


def test_a_router_that_cannot_be_seen_is_refused_naming_its_layer(
    engine: TracedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moetrace.tracer.worker.routers import MoERunner, require_tappable

    worker = engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    runner = [module for module in worker.model_runner.get_model().modules() if isinstance(module, MoERunner)][2]
    with monkeypatch.context() as patched:
        patched.setattr(MoERunner, "is_monolithic", True)
        with pytest.raises(MoetraceError, match="layer 2: a monolithic kernel"):
            require_tappable(runner, compiled=False)
    with monkeypatch.context() as patched:
        patched.setattr(runner.router, "num_fused_shared_experts", 1, raising=False)
        with pytest.raises(MoetraceError, match="layer 2: shared experts are fused"):
            require_tappable(runner, compiled=False)
    with monkeypatch.context() as patched:
        patched.setattr(type(runner.moe_config), "is_sequence_parallel", True)
        with pytest.raises(MoetraceError, match="layer 2: sequence-parallel MoE"):
            require_tappable(runner, compiled=False)
