"""What a page is made of: sections, the figures in them, and the tables that the figures draw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

    import altair as alt

SIGNIFICANT_DIGITS = 5


@dataclass(frozen=True)
class Figure:
    """One chart: a Vega-Lite spec that names the datasets it draws, and the widest it may grow in pixels.

    `sql` is the SQL of those of its datasets that are a query's result; a section with data fills it in.
    """

    name: str
    caption: str
    spec: dict[str, Any]
    datasets: tuple[str, ...]
    renderer: str = "svg"
    max_width: int | None = None
    sql: str = ""


@dataclass(frozen=True)
class Table:
    """A small table that the page shows as HTML; `prose` where cells hold sentences, which wrap."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: bool = False


@dataclass(frozen=True)
class Section:
    """One question, how to read its answer, the SQL behind it, and the answer.

    `findings` are sentences computed from the data; `missing` says in words why there is nothing to draw. A dataset is
    the result of the query of the same name, unless the section says otherwise.
    """

    name: str
    title: str
    reading: str
    formula: str
    queries: Mapping[str, str]
    findings: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    datasets: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    command: str | None = None
    missing: str | None = None

    def with_data(
        self, datasets: Mapping[str, pl.DataFrame], *, figures: tuple[Figure, ...] = (), **found: Any
    ) -> Section:
        """Return the section with its data and what is drawn and said of them."""
        return replace(self, datasets=datasets, figures=tuple(map(self._asked, figures)), **found)

    def _asked(self, drawn: Figure) -> Figure:
        queries = [self.queries[name] for name in drawn.datasets if name in self.queries]
        return replace(drawn, sql=";\n\n".join(queries))

    def without_data(self, reason: str) -> Section:
        """Return the section saying why there is nothing to draw."""
        return replace(self, missing=reason)


def figure(
    name: str,
    caption: str,
    chart: alt.Chart | alt.LayerChart,
    datasets: tuple[str, ...],
    *,
    renderer: str = "svg",
    max_width: int | None = None,
) -> Figure:
    """Return a chart as a figure; its looks come from the page's configuration, not from the spec."""
    spec = chart.to_dict(validate=False)  # a second of each page; the tests validate every chart
    spec.pop("config", None)
    spec["description"] = caption
    return Figure(name, caption, spec, datasets, renderer, max_width)


def pack(frame: pl.DataFrame) -> dict[str, Any]:
    """Return a frame as columns for JSON: text as levels and codes, fractions to SIGNIFICANT_DIGITS, NaN as null."""
    packed: dict[str, Any] = {}
    for column in frame.iter_columns():
        if column.dtype == pl.String:
            levels = column.unique(maintain_order=True).to_list()
            code = {level: number for number, level in enumerate(levels)}
            packed[column.name] = {"levels": levels, "codes": [code[value] for value in column]}
        elif column.dtype.is_float():
            rounded = column.cast(pl.Float64).round_sig_figs(SIGNIFICANT_DIGITS)
            packed[column.name] = rounded.fill_nan(None).to_list()
        else:
            packed[column.name] = column.to_list()
    return packed
