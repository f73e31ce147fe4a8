"""The pages of docs/reference: those that are written whole, and the generated parts of those that people write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.reference_pages import commands, fields, names, views
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `make reference`; a test compares. -->\n\n"
BEGIN, END = "<!-- generated: {} -->\n", "<!-- end -->"

WHOLE: dict[str, Callable[[], str]] = {"commands": commands.page, "views": views.page, "python": names.page}
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "store-format": {"columns": fields.parquet_columns},
    "mask-format": {"fields": fields.mask_fields},
}


def expected(page: str) -> str:
    """Return what a page of the folder should be, by its name without ending."""
    if page in WHOLE:
        return NOTE + WHOLE[page]()
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    for name, made in PARTS[page].items():
        begin = BEGIN.format(name)
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(END)
        if not (found and ended):
            raise LookupError(f"{page}.md has no part {begin.strip()} up to {END.strip()}")
        text = f"{before}{begin}\n{made()}\n\n{END}{after}"
    return text
