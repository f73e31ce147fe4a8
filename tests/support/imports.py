"""What a file imports, read off its syntax: nothing is run."""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a file imports, those for type checkers and inside functions included.

    Of `from a import b` both `a` and `a.b` are named, for b may be a module; a relative import begins with a dot.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return frozenset(found)
