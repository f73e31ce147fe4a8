"""The blocks of commands in README and docs/: where they stand, whether they run, and running them as a person would.

A block runs unless the comment before it says why it cannot: `<!-- not run: needs a GPU -->`.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUNNABLE = {"bash", "console", "python", "sql"}
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n\n?)?"
    r"(?:(?P<indent> *)```(?P<language>\w+)\n(?P<fenced>.*?)^(?P=indent)```|(?P<indented>(?: {4}make .*\n)+))",
    re.MULTILINE | re.DOTALL,
)
BASH = shutil.which("bash") or "bash"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Block:
    """One block: the page and line where it stands, its language, its text, and why it does not run, if it does not."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """What is typed, each with the lines that it is shown to print, which only a console block has."""
        text = self.text.replace("\\\n", " ")
        if self.language != "console":
            return [(line, []) for line in text.splitlines() if line.strip() and not line.startswith("#")]
        typed: list[tuple[str, list[str]]] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                typed.append((line[2:], []))
            elif line.strip() and line.strip() != "...":
                typed[-1][1].append(line)
        return typed


def blocks(page: str, text: str) -> list[Block]:
    """Return every block of a page that is typed somewhere; pages that a program writes show signatures."""
    if text.startswith("<!-- Written by"):
        return []
    found = []
    for match in BLOCK.finditer(text):
        language = match["language"] or "bash"
        if language in RUNNABLE:
            line = text.count("\n", 0, match.start()) + 1
            typed = textwrap.dedent(match["fenced"] or match["indented"])
            found.append(Block(page, line, language, typed, match["reason"]))
    return found


class Desk:
    """A folder in which blocks run in order: `moetrace` by a function, SQL of a store by it, all else by bash.

    Python blocks share their names, unless `python` runs them elsewhere. `names` replaces words of commands: MODEL by a
    model.
    """

    def __init__(
        self,
        folder: Path,
        moetrace: Callable[[list[str]], tuple[int, str]],
        names: dict[str, str],
        python: Callable[[Block], None] | None = None,
        **variables: Any,
    ) -> None:
        self._folder, self._moetrace, self._names, self._variables = folder, moetrace, names, variables
        self._python = python or self._python_here

    def run(self, block: Block) -> None:
        """Run a block; AssertionError where a command fails, or does not print what the page shows."""
        if block.language == "python":
            self._python(block)
            return
        for line, shown in block.commands:
            query = ["sql", "my-store", line.partition(" --")[0]]
            words = query if block.language == "sql" else shlex.split(line, comments=True)
            words = [self._names.get(word, word) for word in words]
            if block.language == "sql":
                status, printed = self._moetrace(words)
            elif words[0] == "moetrace":
                status, printed = self._moetrace(words[1:])
            else:
                ended = subprocess.run(
                    [BASH, "-ec", line],
                    cwd=self._folder,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                status, printed = ended.returncode, ended.stdout + ended.stderr
            assert status == 0, f"{block.place}: {line}\n{printed}"
            for expected in shown:
                assert any(agrees(expected, line) for line in printed.splitlines()), (
                    f"{block.place}: {line}\nlacks the line\n{expected}\nof what it printed:\n{printed}"
                )

    def _python_here(self, block: Block) -> None:
        exec(compile(block.text, block.place, "exec"), self._variables)  # noqa: S102  the page's own code


def agrees(shown: str, printed: str) -> bool:
    """Whether two lines are the same but for white space and what another processor rounds otherwise.

    Numbers may differ by one in the last place that is shown, by 5 %, or by 0.0005.
    """
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    numbers = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(_close(one.replace(",", ""), other.replace(",", "")) for one, other in numbers)


def _close(shown: str, printed: str) -> bool:
    places = len(shown.partition(".")[2]) if "e" not in shown else 4
    last_place = 10.0**-places if places else 0.0
    return abs(float(shown) - float(printed)) <= max(last_place, 0.05 * abs(float(shown)), 0.0005)
