"""The folder that a training writes: whole files, and one line where they cannot be written."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from moetrace.store.output import OutputError
from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.output_folder import SETTINGS_FILE, OutputFolder

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"^.*file/out: cannot be made \(Not a directory\)$"):
        OutputFolder(tmp_path / "file" / "out", {}).begin(None)


def test_a_full_disk_keeps_the_settings_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    OutputFolder(tmp_path, {"seed": 1}).begin(None)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match=r"settings.json: cannot be written \(No space left on device\)"):
        OutputFolder(tmp_path, {"seed": 2}).begin(None)
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS_FILE]
    assert json.loads((tmp_path / SETTINGS_FILE).read_text()) == {"seed": 1}
