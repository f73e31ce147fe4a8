"""`moetrace evaluate` as a person types it: what it prints, what it keeps, how it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.commands import failure
from tests.support.evaluations import COMMON, evaluated, intervention, write_task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path / "task")


def test_what_cannot_be_evaluated_is_one_line(tmp_path: Path, task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: object) -> str:
        assert evaluated(*arguments) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    up = intervention(tmp_path, "up")
    assert "--control and --no-controls" in said("--task", task, "--control", "load", "--no-controls")
    assert "x.safetensors: there is no such file" in said("--task", task, "--experts", tmp_path / "x.safetensors")
    for arguments, message in (
        (("--task", tmp_path / "nowhere"), "no such folder or file"),
        (("--task", task, "--lang", "xyz"), "no language 'xyz'"),
        (("--task", task, "--by-language", f"xyz={up}"), "--by-language xyz: the corpus has"),
        (("--task", task, "--intervention", up, "--model", tmp_path / "up"), "two things to evaluate are called up"),
        (("--task", task, "--intervention", up, "--scope", "generated"), "nothing is generated in this task"),
        (("--task", task, "--intervention", task / "deu_Latn.jsonl"), "line 2, column 1: not valid JSON"),
    ):
        assert message in failure(capsys, "evaluate", "bundled", *arguments, *COMMON)
