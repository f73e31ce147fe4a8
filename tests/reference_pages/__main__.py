"""Writes the generated pages of docs/reference again: python -m tests.reference_pages."""

from __future__ import annotations

from tests.reference_pages.pages import FOLDER, PARTS, WHOLE, expected

for page in (*WHOLE, *PARTS):
    text = expected(page)  # all of it before the file is opened
    (FOLDER / f"{page}.md").write_text(text, encoding="utf-8")
