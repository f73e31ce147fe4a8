"""The command that imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.cli.importing import FORMATS as NAMES
from moetrace.cli.main import run as moetrace
from moetrace.store.imports import FORMATS
from tests.support.published import (
    small_task,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_command_imports_skips_what_is_there_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = small_task(tmp_path / "task")
    store = tmp_path / "store"
    command = ["import", "esft", f"eng_Latn={task}", "--store", str(store), "--run", "made", "--top-k", "2"]
    command += ["--experts", "5", "--model-id", "Made-Up-MoE", "--shard-tokens", "3"]
    assert moetrace(command) == 0
    assert capsys.readouterr() == ("", f"run made in {store}: 1 languages, 2 shards, 6 tokens written\n")
    assert moetrace(command) == 0
    assert "0 shards written, 2 there before" in capsys.readouterr().err
    assert moetrace(["ls", str(store)]) == 0
    assert "made: Made-Up-MoE" in capsys.readouterr().out


def test_the_command_knows_every_format() -> None:
    assert list(FORMATS) == list(NAMES)
