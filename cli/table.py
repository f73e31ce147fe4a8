"""Rows as text that lines up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.cli.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def aligned(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows under their columns' names, numbers to the right, floats at six significant digits.

    A control character in a name or a value is shown, not printed.
    """
    names = [printable(name) for name in names]
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(names)]
    right = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(names))]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(names), line(["-" * width for width in widths]), *map(line, cells)])


def _cell(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else printable(value)
