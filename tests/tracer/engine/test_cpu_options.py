"""What vLLM is told on a CPU, by the family of a model and the parallelism of an engine."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.engine.cpu_options import cpu_options, spread_over_cores
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.model.facts import ModelFacts, read_facts

BY_PYTORCH = {"compilation_config": {"custom_ops": ["all", "-rotary_embedding"]}}


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return read_facts(str(MODEL))


@pytest.mark.parametrize(
    ("family", "eager", "expected"),
    [
        ("qwen3_moe", True, {}),
        ("lfm2_moe", True, BY_PYTORCH),
        ("lfm2_moe", False, {}),
        ("someones_moe", True, BY_PYTORCH),
    ],
)
def test_families_that_rotate_head_by_head_do_so_by_pytorch(
    facts: ModelFacts, family: str, expected: dict[str, object], *, eager: bool
) -> None:
    assert cpu_options(replace(facts, family=family), "float32", eager=eager) == expected


def test_compressed_keys_and_values_get_an_attention_that_takes_their_dtype(facts: ModelFacts) -> None:
    latent = replace(facts, latent_attention=True)
    assert cpu_options(latent, "float32", eager=True) == {"attention_backend": "CPU_MLA"}
    assert cpu_options(latent, "bfloat16", eager=True) == {}


def test_workers_share_the_cores_without_sharing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 5, 6})
    spread_over_cores(EngineSettings())
    assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ
    spread_over_cores(EngineSettings(tensor_parallel_size=2))
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0,2,6|1,5"
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND")


def test_expert_parallelism_is_refused_before_it_crashes() -> None:
    with pytest.raises(MoetraceError, match=r"--expert-parallel.*leave it out"):
        spread_over_cores(EngineSettings(expert_parallel=True))
