"""What is said after a trace or an import can be typed, and is not said to who wants it quiet."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.cli.main import run
from moetrace.cli.next_steps import say_next
from tests.support.published import LAYERS, write_usage
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("runs", [("base",), ("base", "tuned")])
def test_every_command_that_is_named_runs(
    runs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "my store"
    for seed, name in enumerate(runs):
        write_world(store, make_world(seed, make_record(name), texts=80))
    say_next(str(store), "base")
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "next:"
    commands = [shlex.split(line) for line in lines]
    assert [words[:2] for words in commands] == [["moetrace", name] for name in ("report", "sql", "export")]
    assert all(("--run" in words) == (len(runs) > 1) for words in commands if words[1] != "sql")
    for words in commands:
        assert run(words[1:]) == 0, words
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert (tmp_path / "mask.json").exists()


def test_quiet_leaves_results_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usage = write_usage(tmp_path / "usage.json", np.full((len(LAYERS), 4), 10), tokens=20)
    command = ["import", "usage-json", f"eng_Latn={usage}", "--store", str(tmp_path / "store"), "--run", "made"]
    command += ["--top-k", "2", "--experts", "4"]
    assert run(["--quiet", *command]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["-q", "sql", str(tmp_path / "store"), "select 1 as one"]) == 0
    assert "one" in capsys.readouterr().out
    assert run(["-q", "verify", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().err == ""
    assert run(["-q", "ls", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("moetrace: ")
