"""What a shell is offered for the word under the cursor."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete

from moetrace.analytics.database.documentation import views
from moetrace.cli.main import moetrace
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


def offered(words: list[str], begun: str) -> list[str]:
    shell = ShellComplete(moetrace, {}, "moetrace", "_MOETRACE_COMPLETE")
    return [item.value for item in shell.get_completions(words, begun)]


@pytest.fixture
def store(tmp_path: Path) -> str:
    write_world(tmp_path / "store", make_world(1, make_record("base")))
    write_world(tmp_path / "store", make_world(2, make_record("tuned", languages=("eng_Latn", "fra_Latn"))))
    return str(tmp_path / "store")


def test_runs_languages_and_views_of_the_store_on_the_line(store: str) -> None:
    assert offered(["report", store, "--run"], "") == ["base", "tuned"]
    assert offered(["report", store, "--run"], "t") == ["tuned"]
    assert offered(["export", "rise", store, "--target"], "") == ["deu_Latn", "eng_Latn", "fra_Latn", "swh_Latn"]
    assert offered(["export", "rise", store, "--run", "tuned", "--target"], "") == ["eng_Latn", "fra_Latn"]
    assert offered(["export", "task", store, "--against"], "b") == ["base"]
    assert offered(["rm", store, "--run", "base", "--lang"], "s") == ["swh_Latn"]
    assert set(offered(["views"], "route")) == {"routes", "route_agreement"} == {v for v in views() if v[:5] == "route"}


def test_a_store_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no store")
    for place in (tmp_path / "nothing", tmp_path / "file", tmp_path):
        assert offered(["report", str(place), "--run"], "") == []
    assert offered(["report", "--run"], "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str) -> None:
    line = [sys.executable, "-c", "from moetrace.cli.main import main; main()"]
    environment = {**os.environ, "_MOETRACE_COMPLETE": f"{shell}_source"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "_MOETRACE_COMPLETE" in done.stdout
