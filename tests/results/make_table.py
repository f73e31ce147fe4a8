"""Prints the JSON files of this folder as Markdown tables: python -m tests.results.make_table [FILE...]

A file holds rows by name, each with the same columns. docs/families.md has the tables between markers; a test compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent


def table(file: Path) -> str:
    """Return the rows of a results file as a Markdown table whose first column is the file's name in the singular."""
    rows: dict[str, dict[str, Any]] = json.loads(file.read_text())
    columns = list(next(iter(rows.values())))
    first = file.stem.removesuffix("ies") + "y" if file.stem.endswith("ies") else file.stem.removesuffix("s")
    lines = [[first, *(column.replace("_", " ") for column in columns)], ["---"] * (len(columns) + 1)]
    lines += [[f"`{name}`", *(words(row[column]) for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def words(value: Any) -> str:
    """Return a cell: shares with three decimals, errors with two digits, nothing for what was not measured."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if value >= 0.1 else f"{value:.1e}"
    return str(value)


def main() -> None:
    """Print the tables of the files that are named, of all by default."""
    for name in sys.argv[1:] or sorted(path.name for path in RESULTS.glob("*.json")):
        print(table(RESULTS / name))  # noqa: T201


if __name__ == "__main__":
    main()
