"""What of an engine's settings the run record keeps: whatever can change a number."""

from __future__ import annotations

from moetrace.tracer.engine.settings import EngineSettings, engine_versions

DEFAULTS = {
    "dtype": "auto",
    "max_model_len": None,
    "max_num_batched_tokens": 4096,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "expert_parallel": False,
    "eager": True,
    "prefix_caching": False,
    "self_check": True,
    "options": {},
}


def test_the_record_has_every_setting_that_can_change_a_number() -> None:
    assert list(EngineSettings().record().items()) == list(DEFAULTS.items())
    assert EngineSettings(options={"block_size": 16}).record() == {**DEFAULTS, "options": {"block_size": 16}}


def test_what_is_left_out_or_only_takes_memory_is_not_in_the_record() -> None:
    assert EngineSettings(profiles=False, kv_cache_gib=0.5).record() == DEFAULTS


def test_versions_name_the_distribution_they_are_of() -> None:
    for name, found in engine_versions().items():
        distribution, version = found.split(" ")
        assert name in {"vllm", "torch", "transformers"}
        assert distribution.startswith(name)
        assert version[0].isdecimal()
