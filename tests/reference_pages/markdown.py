"""Text as Markdown that a code host and a site generator show alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_CODE = re.compile(r"(`[^`]*`)")
_SPECIAL = re.compile(r"[\\*<\[\]]")
_ITEM = re.compile(r"- |\d+\. ")


def escaped(text: str) -> str:
    """Return a text of which nothing but code in backticks is taken for markup."""
    parts = _CODE.split(text)
    return "".join(part if part.startswith("`") else _SPECIAL.sub(r"\\\g<0>", part) for part in parts)


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def code_cell(text: str) -> str:
    """Return code for a cell of a table, nothing for none."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prose(text: str) -> str:
    """Return a docstring: paragraphs, lists, and what is indented as code of Python."""
    blocks: list[str] = []
    for kind, lines in _runs(text.strip("\n").split("\n")):
        if kind == "code":
            inside = "\n".join(line.removeprefix("    ") for line in lines).strip("\n")
            blocks.append(f"```python\n{inside}\n```")
        elif kind:
            blocks.append("\n".join(escaped(line) for line in lines))
    return "\n\n".join(blocks)


def _runs(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield consecutive lines of one kind: text, list, code; empty lines end text and lists."""
    kind, found = "", list[str]()
    for line in lines:
        if not line.strip():
            here = kind if kind == "code" else ""
        elif _ITEM.match(line) or (kind == "list" and line.startswith("  ")):
            here = "list"
        elif line.startswith("    "):
            here = "code"
        else:
            here = "text"
        if here != kind and found:
            yield kind, found
            found = []
        kind = here
        if here:
            found.append(line)
    if found:
        yield kind, found
