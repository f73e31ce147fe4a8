"""What every command writes with -o: whole or absent, whatever was there before kept, and one line that says why."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moetrace.cli.main import run
from tests.support.commands import failure
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {  # a command but for its output -> the name of a file that it writes
    "sql STORE": ("rows.csv", "from runs"),
    "sql STORE --format table": ("rows.txt", "from runs"),
    "sql STORE --format json": ("rows.json", "from runs"),
    "sql STORE --format parquet": ("rows.parquet", "from runs"),
    "export rise STORE --target swh_Latn --budget 5 --min-count 0": ("mask.json",),
    "export convert MASK --format axolotl": ("experts.yaml",),
    "report STORE": ("report.html",),
}
DATABASE = "sql STORE --database"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("outputs")
    write_world(made / "store", make_world(1, make_record()))
    rise = ["export", "rise", str(made / "store"), "--target", "swh_Latn", "--budget", "5", "--min-count", "0"]
    assert run([*rise, "-o", str(made / "mask.json")]) == 0
    return made


def arguments(command: str, folder: Path, output: Path) -> Sequence[str]:
    words = command.replace("STORE", str(folder / "store")).replace("MASK", str(folder / "mask.json")).split()
    if command == DATABASE:
        return [*words, str(output)]
    return [*words, *COMMANDS[command][1:], "-o", str(output)]


def name_of(command: str) -> str:
    return "store.duckdb" if command == DATABASE else COMMANDS[command][0]


@pytest.mark.parametrize("command", [*COMMANDS, DATABASE])
def test_nothing_lies_beside_what_is_written(command: str, folder: Path, tmp_path: Path) -> None:
    assert run(arguments(command, folder, tmp_path / name_of(command))) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name_of(command)]
    assert (tmp_path / name_of(command)).stat().st_size > 0


@pytest.mark.parametrize("command", [*COMMANDS, DATABASE])
def test_a_full_disk_keeps_what_was_there(
    command: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    output = tmp_path / name_of(command)
    if command != DATABASE:  # which writes over nothing
        output.write_text("what was there")
    line = failure(capsys, *arguments(command, folder, output))
    assert line == f"{output}: cannot be written (No space left on device)"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there"] * (command != DATABASE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_device_is_one_line(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = failure(capsys, *arguments(command, folder, Path("/dev/full")))
    assert line == "/dev/full: cannot be written (No space left on device)"


@pytest.mark.parametrize("command", [*COMMANDS, DATABASE])
@pytest.mark.parametrize(("place", "reason"), [("nowhere", "no such folder"), ("file", "Not a directory")])
def test_a_folder_that_is_none_is_one_line(
    command: str, place: str, reason: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / place / name_of(command)
    assert failure(capsys, *arguments(command, folder, output)) == f"{output}: cannot be written ({reason})"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", COMMANDS)
def test_output_can_go_to_a_device(command: str, folder: Path) -> None:
    assert run(arguments(command, folder, Path(os.devnull))) == 0
    assert Path(os.devnull).is_char_device()


def test_a_disk_that_fills_while_duckdb_writes_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    from moetrace.analytics.database import file

    def full(_: object, path: Path, __: object) -> None:
        path.write_text("half")
        raise duckdb.IOException(f'IO Error: Could not write file "{path}": No space left on device\nmore')

    monkeypatch.setattr(file, "_write", full)
    output = tmp_path / "store.duckdb"
    line = failure(capsys, *arguments(DATABASE, folder, output))
    assert line.startswith(f"{output}: cannot be written (IO Error: Could not write file")
    assert "No space left on device" in line
    assert ".moetrace-" not in line
    assert list(tmp_path.iterdir()) == []
