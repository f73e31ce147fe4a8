"""The vLLM plugin: what it does to a process of vLLM, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker import TRACED_WORKER

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.engine


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
    arguments = EngineArgs(model=str(MODEL), worker_cls=TRACED_WORKER, additional_config=own)
    assert arguments.create_engine_config().additional_config == own
    theirs = EngineArgs(model=str(MODEL)).create_engine_config()
    assert theirs.parallel_config.worker_cls == TRACED_WORKER
    assert theirs.additional_config["moetrace"]["recording"]["store"] == str(tmp_path / "store")
    assert not theirs.cache_config.enable_prefix_caching
    assert theirs.shutdown_timeout > 0
    monkeypatch.setenv("MOETRACE_FLUSH_SECONDS", "soon")
    with pytest.raises(MoetraceError, match="MOETRACE_FLUSH_SECONDS=soon: must be a number above 0"):
        EngineArgs(model=str(MODEL)).create_engine_config()
