"""A written report taken apart."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import altair as alt
import jsonschema
import polars as pl

if TYPE_CHECKING:
    from pathlib import Path

LOADING = {"src", "srcset", "href", "action", "data", "poster", "background"}


class Page(HTMLParser):
    """A written report taken apart: what it would load, and per section its text, SQL and the embedded content."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text: dict[str, str] = {"": ""}
        self.queries: dict[str, list[str]] = {}
        self._section, self._open = "", [""]
        self.feed(self.source)
        self.content = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        values = dict(attrs)
        self.loads += [value or "" for name, value in attrs if name in LOADING]
        if tag == "section":
            self._section = values["id"] or ""
            self.text[self._section] = ""
        if tag == "pre":
            self.queries.setdefault(self._section, []).append("")
        if tag in ("meta", "link"):
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open[-1] == "style":
            self.styles.append(data)
        else:
            self.text[self._section] += data
            if self._open[-1] == "pre":
                self.queries[self._section][-1] += data

    def dataset(self, name: str) -> pl.DataFrame:
        packed = self.content["datasets"][name]
        columns = {
            column: values if isinstance(values, list) else [values["levels"][code] for code in values["codes"]]
            for column, values in packed.items()
        }
        return pl.DataFrame(columns)

    def check_charts(self) -> int:
        """Hold every chart against the schema of Vega-Lite, as writing a page does not; return how many there are."""
        valid = jsonschema.Draft7Validator(alt.load_schema())
        specs = [figure["spec"] for figure in self.content["figures"]]
        for spec in specs:
            valid.validate(spec)
        return len(specs)
