"""What `moetrace --version` says, and what `moetrace` alone shows."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from moetrace.cli.main import COMMANDS, GROUPS, run
from moetrace.store.format.schema import FORMAT_VERSION

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("driver", "gpus"),
    [
        (None, "none found"),
        ("echo 'NVIDIA H100 80GB HBM3'; echo 'NVIDIA L4'", "NVIDIA H100 80GB HBM3, NVIDIA L4"),
        ("echo broken; exit 9", "none found"),
    ],
)
def test_a_version_names_what_a_report_of_a_fault_should(
    driver: str | None,
    gpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if driver else str(tmp_path))
    if driver:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{driver}\n")
        tool.chmod(0o755)
    assert run(["--version"]) == 0
    first, python, processor, gpu, packages = capsys.readouterr().out.splitlines()
    assert first == f"moetrace {metadata.version('moetrace')}, store format {FORMAT_VERSION}"
    assert python.startswith("Python 3.")
    assert processor.startswith("processor: ")
    assert gpu == f"GPU: {gpus}"
    found = packages.removeprefix("packages: ").split(", ")
    assert f"duckdb {metadata.version('duckdb')}" in found
    assert f"pyarrow {metadata.version('pyarrow')}" in found
    assert any("vllm" in each for each in found)


def test_every_command_stands_in_one_group_and_all_fit_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 48
    titles = [line[:-1] for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options", *GROUPS]
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert listed == list(COMMANDS)
