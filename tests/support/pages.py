"""The pages of documentation, in the repository's folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "sql/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))
