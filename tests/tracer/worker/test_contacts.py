"""Everything of vLLM that the tap relies on is there, by name: what a new version renames is what this test says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.tracer.engine.engine import TracedEngine

pytestmark = pytest.mark.engine


def test_each_attribute_that_the_tap_relies_on_exists() -> None:
    from moetrace.tracer.worker.worker import CONTACTS, missing_contacts

    assert len(CONTACTS) > 20
    assert missing_contacts() == []


@pytest.mark.parametrize(
    "contact",
    [
        "vllm.config:VllmConfig.renamed",
        "vllm.no_such_module:Thing",
        "vllm.model_executor.layers.fused_moe.router.base_router:BaseRouter._compute_routing_v9",
    ],
)
def test_a_version_that_lacks_one_is_refused_by_its_name(contact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import read_facts
    from moetrace.tracer.worker import worker as tap

    monkeypatch.setattr(tap, "CONTACTS", (*tap.CONTACTS, contact))
    with pytest.raises(MoetraceError, match=rf"is not supported: it lacks {contact}; install the version"):
        TracedEngine(read_facts(str(MODEL)), EngineSettings(max_model_len=256))


def test_what_only_instances_have_is_there(engine: TracedEngine) -> None:
    from moetrace.tracer.worker.worker import INSTANCE_CONTACTS, MoERunner

    worker = engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    runner = worker.model_runner
    module = next(module for module in runner.get_model().modules() if isinstance(module, MoERunner))
    instances = {"MoERunner": module, "BaseRouter": module.router, "Worker": worker, "GPUModelRunner": runner}
    assert instances.keys() == INSTANCE_CONTACTS.keys()
    for kind, names in INSTANCE_CONTACTS.items():
        for name in names:
            found: Any = instances[kind]
            for part in name.split("."):
                assert hasattr(found, part), f"{kind}.{name}"
                found = getattr(found, part)


def test_the_plugin_gives_workers_the_command_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import entry_points

    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.worker.worker_base import WorkerBase

    (found,) = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "moetrace"]
    monkeypatch.delenv("MOETRACE_STORE", raising=False)
    make_config = EngineArgs.create_engine_config
    found.load()()
    found.load()()
    assert "moetrace" in vars(WorkerBase)
    assert EngineArgs.create_engine_config is make_config, "without MOETRACE_STORE engines are made as ever"


def test_an_engine_of_our_own_is_not_recorded_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vllm.engine.arg_utils import EngineArgs

    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.recording import plugin

    made = EngineArgs.create_engine_config
    monkeypatch.setattr(EngineArgs, "create_engine_config", made)  # put back at the end
    monkeypatch.setenv("MOETRACE_STORE", str(tmp_path / "store"))
    plugin.register()
    assert EngineArgs.create_engine_config is not made
    own = {"moetrace": {"scoring": "softmax", "profiles": True}}
    arguments = EngineArgs(model=str(MODEL), worker_cls=plugin.TRACED_WORKER, additional_config=own)
    assert arguments.create_engine_config().additional_config == own
    theirs = EngineArgs(model=str(MODEL)).create_engine_config()
    assert theirs.parallel_config.worker_cls == plugin.TRACED_WORKER
    assert theirs.additional_config["moetrace"]["live"]["store"] == str(tmp_path / "store")
    assert not theirs.cache_config.enable_prefix_caching
    assert theirs.shutdown_timeout > 0
    monkeypatch.setenv("MOETRACE_FLUSH_SECONDS", "soon")
    with pytest.raises(MoetraceError, match="MOETRACE_FLUSH_SECONDS=soon: must be a number above 0"):
        EngineArgs(model=str(MODEL)).create_engine_config()
