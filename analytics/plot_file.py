"""A chart with its data, and the file that it becomes: sized for a paper, its fonts in it, readable without colour."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert

from moetrace.analytics.print_looks import darkened, layout, luminance, printed
from moetrace.analytics.report.style import printed_configuration
from moetrace.analytics.svg_fonts import with_fonts
from moetrace.store.errors import MoetraceError
from moetrace.store.output import write_bytes, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    Chart = alt.Chart | alt.LayerChart

FORMATS = ("svg", "pdf", "png", "csv", "json")
COLUMNS = {1: 252, 2: 516}  # width in points of one column of a paper, and of two
SCALE = 0.7  # points a pixel: letters of 11 pixels are of 7.7 points
TALLEST = 1.1  # of the width, of maps
MARGIN = 4  # pixels at the right edge
PIXELS_PER_INCH = 300
THEME = "moetrace"
DARK = 0.1  # luminance of a background below which it is dark


@dataclass(frozen=True)
class Plot:
    """A chart with its data: a Vega-Lite spec, and the table that it draws."""

    name: str
    spec: dict[str, Any]
    table: pl.DataFrame

    def chosen(self, choices: Mapping[str, str]) -> Plot:
        """Return the plot with what the report lets a reader choose set to values; MoetraceError for what it does not.

        choices: name of a parameter -> one of its options, such as {"measure": "divergence"}
        """
        parameters = {item["name"]: item for item in self.spec.get("params", ()) if "bind" in item}
        changed = {}
        for name, value in choices.items():
            options = parameters.get(name, {}).get("bind", {}).get("options", ())
            if value not in options:
                known = "; ".join(
                    f"{each} = {' | '.join(item['bind']['options'])}" for each, item in parameters.items()
                )
                raise MoetraceError(
                    f"{self.name}: {name}={value} cannot be chosen; there is {known or 'nothing to choose'}"
                )
            changed[name] = {**parameters[name], "value": value}
        params = [changed.get(item["name"], item) for item in self.spec.get("params", ())]
        return replace(self, spec={**self.spec, "params": params}) if changed else self

    def chart(self) -> Chart:
        """Return it as Altair's, with the looks that it has on paper."""
        found: Chart = alt.Chart.from_dict({**printed(self.spec), "config": printed_configuration()})
        return found


def write_plot(made: Plot, output: str | Path, *, columns: int = 1, theme: str = THEME) -> None:
    """Write a plot as its file's ending says: svg, pdf, png (300 pixels an inch), csv (the table), json (the spec).

    columns: of a paper that it is as wide as; theme: `moetrace`, or one of Vega's (`themes()`). Raises MoetraceError
    for another ending or theme, OutputError where the file cannot be written.
    """
    kind = Path(output).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise MoetraceError(f"{output}: name a file that ends in {', '.join(f'.{each}' for each in FORMATS)}")
    if kind == "csv":
        write_text(output, made.table.write_csv())
        return
    if theme not in themes():
        raise MoetraceError(f"no theme is called {theme}; there are {', '.join(themes())}")
    spec = _sized(printed(made.spec), round(COLUMNS[columns] / SCALE))
    if theme == THEME:
        spec["config"] = printed_configuration()
    else:
        spec = {**(darkened(spec) if _is_dark(theme) else spec), "config": layout(printed_configuration())}
    named: Any = None if theme == THEME else theme
    if kind == "json":
        text = json.dumps({"$schema": alt.SCHEMA_URL, **spec}, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(output, f"{text}\n")
    elif kind == "svg":
        write_text(output, with_fonts(_scaled(vl_convert.vegalite_to_svg(spec, theme=named), "pt")))
    elif kind == "pdf":  # a page of a PDF has a point for each pixel of the SVG
        write_bytes(output, vl_convert.svg_to_pdf(_scaled(vl_convert.vegalite_to_svg(spec, theme=named), "")))
    else:
        write_bytes(output, vl_convert.vegalite_to_png(spec, theme=named, scale=SCALE, ppi=PIXELS_PER_INCH))


def themes() -> tuple[str, ...]:
    """Return the names of the themes."""
    return THEME, *sorted(vl_convert.get_themes())


def _is_dark(theme: str) -> bool:
    background = next(str(look.get("background")) for name, look in vl_convert.get_themes().items() if name == theme)
    return background.startswith("#") and luminance(background) < DARK


def _sized(spec: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return a spec as wide as that, in pixels, axes and legends included, and not much taller."""
    size: dict[str, Any] = {"height": min(spec["height"], round(TALLEST * width))} if "height" in spec else {}
    if isinstance(spec.get("padding"), dict):  # what stands beside a chart is part of its size here
        size["padding"] = {**spec["padding"], "right": MARGIN}
    return {**spec, "width": width, **size, "autosize": {"type": "fit-x", "contains": "padding"}}


def _scaled(svg: str, unit: str) -> str:
    """Return an SVG whose size is said in another unit, a pixel being SCALE of it."""

    def size(found: re.Match[str]) -> str:
        return f'{found[1]}="{float(found[2]) * SCALE:g}{unit}"'

    head, end, rest = svg.partition(">")
    return re.sub(r'\b(width|height)="([0-9.]+)"', size, head) + end + rest
