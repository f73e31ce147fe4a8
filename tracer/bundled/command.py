"""moetrace's own commands, for the programs that measure the bundled model."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def moetrace(*arguments: object, cwd: Path | None = None) -> str:
    """Run a moetrace command in a process of its own and return what it prints; what it says goes to stderr."""
    command = [sys.executable, "-m", "moetrace.cli.main", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout  # noqa: S603
