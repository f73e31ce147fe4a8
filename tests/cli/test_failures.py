"""What is raised while a command runs: one line, exit code 1, and the traceback for who asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from moetrace.cli.main import moetrace, run
from moetrace.store.errors import MoetraceError
from tests.support.commands import failure

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """A function that makes every command raise an error."""

    def raising(error: BaseException) -> None:
        def main(**_: object) -> None:
            raise error

        monkeypatch.setattr(moetrace, "main", main)

    return raising


class PanicError(BaseException):
    """What a library in Rust raises is no Exception."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MoetraceError("store: is\x1b[2J damaged\nwholly"), "store: is\\x1b[2J damaged wholly"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "a/b: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            duckdb.OutOfMemoryException("Out of Memory Error: could not allocate\nmore"),
            "Out of Memory Error: could not",
        ),
        (duckdb.ConversionException("Conversion Error: x"), "Conversion Error: x"),
        (pl.exceptions.ComputeError("no such\ncolumn"), "no such column"),
        (pa.ArrowInvalid("not a Parquet file"), "not a Parquet file"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "'utf-8' codec can't decode byte 0xff"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply to be read (maximum recursion"),
        (MemoryError(), "not enough memory"),
        (OverflowError("int too big to convert"), "int too big to convert"),
    ],
)
def test_what_is_in_a_persons_hands_is_one_line(
    error: BaseException, line: str, raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error)
    found = failure(capsys, "views")
    assert found.startswith(line)
    assert "bug" not in found


@pytest.mark.parametrize("error", [TypeError("x is None"), KeyError("lang"), AssertionError(), PanicError("panicked")])
def test_what_nobody_expected_is_said_to_be_a_bug(
    error: BaseException, raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error)
    found = failure(capsys, "views")
    assert found.startswith(f"{type(error).__name__}: {error}")
    assert "this is a bug of moetrace; run the command again with MOETRACE_DEBUG=1" in found


def test_whoever_asks_gets_the_traceback(
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for error in (TypeError("x is None"), MoetraceError("x is None")):
        raising(error)
        monkeypatch.setenv("MOETRACE_DEBUG", "1")
        assert run(["views"]) == 1
        printed = capsys.readouterr().err
        assert "Traceback (most recent call last)" in printed
        assert printed.splitlines()[-1].startswith("moetrace: ")
        monkeypatch.setenv("MOETRACE_DEBUG", "0")
        assert run(["views"]) == 1
        assert "Traceback" not in capsys.readouterr().err


def test_verbose_shows_the_traceback(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "moetrace.cli.main"]
    for words, expected in ((["-v"], True), ([], False)):
        done = subprocess.run([*program, *words, "ls", str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is expected
        assert done.stderr.splitlines()[-1].startswith(f"moetrace: {tmp_path}: no such store")


def test_leaving_and_interrupting_are_no_failures(raising: Callable[[BaseException], None]) -> None:
    raising(SystemExit(3))
    with pytest.raises(SystemExit):
        run(["views"])
    raising(KeyboardInterrupt())
    assert run(["views"]) == 130


PROGRAM = [sys.executable, "-m", "moetrace.cli.main", "views"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_a_full_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(PROGRAM, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == "moetrace: No space left on device\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    with subprocess.Popen(PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout
        assert program.stderr
        program.stdout.close()
        assert program.stderr.read() == ""
