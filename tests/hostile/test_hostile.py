"""A store from a stranger is data, never code: whatever it says, nothing outside it is read, written or deleted."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.hostile.case import make_good
from tests.hostile.commands import COMMANDS, MASK_COMMANDS
from tests.hostile.judge import unexpected, wrong
from tests.hostile.kit import HOSTILE, UNCHANGED, USUAL
from tests.hostile.masks import MASKS
from tests.support.examples import FULL
from tests.support.masks import mask_of
from tests.support.writer_server import ForkedProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.hostile.commands import Command
    from tests.hostile.hostile import Hostile

EVERYTHING = os.environ.get("MOETRACE_HOSTILE") == "all"
STORES = [*HOSTILE] if EVERYTHING else USUAL[:: FULL // settings().max_examples]  # of the quick profile a tenth
GOOD_MASK = mask_of([(1, 0), (2, 3)], moe_layers=(1, 2, 5), num_experts=8, top_k=2, target="deu_Latn")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all of them were once, and a mask beside it."""
    folder = tmp_path_factory.mktemp("good")
    make_good(folder / "good")
    (folder / "mask.json").write_text(json.dumps(GOOD_MASK))
    return folder / "good"


@pytest.fixture(scope="module")
def said_of_good(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command does with the good store."""
    return results("try_store", UNCHANGED, good, tmp_path_factory.mktemp("unchanged"), True)


def results(job: str, name: str, good: Path, folder: Path, *more: object) -> dict[str, Any]:
    """Try all commands; return what each did, the folder's path taken out of it."""
    process = ForkedProcess(f"tests.hostile.jobs:{job}", name, str(good), str(folder), *more)
    assert process.wait(600) == 0, process.said
    text = (folder / "results.json").read_text()
    found: dict[str, Any] = json.loads(text)
    for result in found.values():
        result["out"] = result["out"].replace(str(folder), "FOLDER")
    return found


@pytest.mark.parametrize("name", STORES)
def test_a_hostile_store_is_only_data(name: str, good: Path, said_of_good: dict[str, Any], tmp_path: Path) -> None:
    found = results("try_store", name, good, tmp_path, EVERYTHING)
    hostile = HOSTILE[name]
    complaints = [
        f"{command.name}: {complaint}\n    {shown(found[command.name])}"
        for command in COMMANDS
        if command.name in found
        for complaint in _complaints(hostile, command, found, said_of_good, tmp_path)
    ]
    assert not complaints, "\n".join(complaints)


def _complaints(
    hostile: Hostile, command: Command, found: dict[str, Any], said: dict[str, Any], folder: Path
) -> Iterator[str]:
    yield from wrong(folder, command, found[command.name], said[command.name])
    yield from unexpected(hostile, command, found[command.name], said[command.name])


@pytest.mark.parametrize("name", MASKS)
def test_a_hostile_mask_is_only_data(name: str, good: Path, tmp_path: Path) -> None:
    found = results("try_mask", name, good, tmp_path)
    complaints = [
        f"{command.name}: {complaint}\n    {shown(found[command.name])}"
        for command in MASK_COMMANDS
        for complaint in (
            *wrong(tmp_path, command, found[command.name], {"seen": []}),
            *([] if found[command.name]["code"] == 1 else ["did not refuse it"]),
        )
    ]
    assert not complaints, "\n".join(complaints)


def shown(result: dict[str, Any]) -> str:
    return f"{result['code']} {result['out'][:300]!r} {result['err'][:600]!r}"
