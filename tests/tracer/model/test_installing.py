"""The line that says how to install what is missing, by what machine it is."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model import installing
from moetrace.tracer.model.installing import install_command, require
from tests.support.paths import ROOT

PIP = [sys.executable, "-m", "pip", "install"]


@pytest.fixture(autouse=True)
def on_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = installing.importlib.util.find_spec
    monkeypatch.setattr(installing.importlib.util, "find_spec", lambda name: None if name in names else found(name))


def words(command: str) -> list[str]:
    return shlex.split(command[command.index(shlex.quote(sys.executable)) :])


def test_for_a_cpu_it_is_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "vllm", "torch")
    for extra in ("gpu", "train"):
        assert install_command(extra).startswith("no GPU is here; for a CPU, ")
        *begin, index, url, option, lock = words(install_command(extra))
        assert begin == [*PIP, "--no-deps"]
        assert (index, option) == ("--extra-index-url", "-r")
        assert url.startswith("https://")
        assert Path(lock).read_bytes() == (ROOT / "requirements-cpu.lock").read_bytes()


def test_for_a_gpu_it_is_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent(monkeypatch, "vllm", "torch")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200'\n")
    tool.chmod(0o755)
    assert install_command().startswith("for NVIDIA H200, ")
    assert words(install_command()) == [*PIP, "moetrace[gpu]"]
    assert words(install_command("train")) == [*PIP, "moetrace[train]"]


def test_a_pytorch_that_is_here_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "accelerate")
    with pytest.raises(MoetraceError, match=r"^training needs accelerate: ") as raised:
        require(("torch", "accelerate"), "training", "train")
    assert words(str(raised.value)) == [*PIP, "moetrace[train]"]


def test_where_there_is_no_build_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "vllm")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(MoetraceError, match=r"running a model needs vllm: its builds are for Linux x86-64"):
        require(("vllm",), "running a model")


def test_nothing_is_said_where_nothing_is_missing() -> None:
    require(("json", "moetrace"), "anything")
