"""Commands as a person types them, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.cli.main import run

if TYPE_CHECKING:
    import pytest


def failure(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Run a command that must fail with exit code 1 and one line on stderr; return the line."""
    assert run([str(arg) for arg in args]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("moetrace: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0].removeprefix("moetrace: ")
