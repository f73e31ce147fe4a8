"""The tutorials, typed block by block in one folder, and what they show beside what was printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.blocks import Block, Desk, blocks
from tests.support.pages import TUTORIALS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.warm import WarmProcess

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a person who does one tutorial after the other."""
    return tmp_path_factory.mktemp("tutorials")


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_and_prints_what_it_shows(page: Path, folder: Path, warm: WarmProcess) -> None:
    def typed(words: list[str]) -> tuple[int, str]:
        ended = warm.start("tests.support.typed", folder, *words)
        status = ended.wait()
        return status, ended.stdout + ended.stderr

    def python(block: Block) -> None:
        (folder / "typed.py").write_text(block.text, encoding="utf-8")
        status, printed = typed(["--python", "typed.py"])
        assert status == 0, f"{block.place}: {printed}"

    desk = Desk(folder, typed, {"MODEL": "bundled"}, python)
    for block in blocks(page.name, page.read_text(encoding="utf-8")):
        if block.reason is None:
            desk.run(block)
