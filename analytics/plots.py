"""The report's charts one by one: for a paper, to change as an Altair chart, or as the numbers that they draw.

    from moetrace import plots
    plots.isolation("my-store").properties(title="Isolation").save("isolation.svg")

Each function takes a store (a place or a `Store`) and returns a chart that holds its data; `run` may be left out where
the store has one run. They raise what `write_report` raises, and MoetraceError where a run has nothing to draw.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert

from moetrace.analytics.database.connection import connect
from moetrace.analytics.print_looks import darkened, layout, luminance, printed
from moetrace.analytics.report.entropy import entropy as entropy_section
from moetrace.analytics.report.isolation import isolation as isolation_section
from moetrace.analytics.report.mask_input import fitting_mask
from moetrace.analytics.report.mask_map import mask_section
from moetrace.analytics.report.pairs import pairs as pairs_section
from moetrace.analytics.report.pivot import pivot as pivot_section
from moetrace.analytics.report.source import Source
from moetrace.analytics.report.specificity import specificity as specificity_section
from moetrace.analytics.report.style import printed_configuration
from moetrace.analytics.svg_fonts import with_fonts
from moetrace.store.errors import MoetraceError, StoreError, UnknownNameError
from moetrace.store.mask import mask_targets
from moetrace.store.output import write_bytes, write_text
from moetrace.store.read.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from moetrace.analytics.report.section import Section

    Mask = Mapping[str, Any]
    Chart = alt.Chart | alt.LayerChart

__all__ = [
    "entropy_heat",
    "entropy_lines",
    "isolation",
    "mask_coverage",
    "mask_grid",
    "pairs",
    "pivot_excess",
    "pivot_heat",
    "pivot_lines",
    "specificity",
]


def _of_mask(source: Source, targets: list[str], mask: Mask | None) -> Section:  # noqa: ARG001
    if mask is None:
        raise MoetraceError("this plot is of a mask: name one with --mask, or mask=")
    return mask_section(source, mask)


# A chart of the report that is offered: its figure's name, and what makes the section that it stands in, of the source,
# the languages to colour and the mask. `moetrace plot --help` has a line for each.
SECTIONS: dict[str, Callable[[Source, list[str], Mask | None], Section]] = {
    "isolation": lambda source, *_: isolation_section(source),
    **dict.fromkeys(
        ("pivot_lines", "pivot_heat", "pivot_excess"), lambda source, targets, _: pivot_section(source, targets)
    ),
    "pairs": lambda source, *_: pairs_section(source),
    "specificity": lambda source, targets, _: specificity_section(source, targets),
    **dict.fromkeys(("entropy_lines", "entropy_heat"), lambda source, targets, _: entropy_section(source, targets)),
    **dict.fromkeys(("mask_grid", "mask_coverage"), _of_mask),
}
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


def plot(
    name: str,
    place: str | Path | Store,
    *,
    run: str | None = None,
    lang: str | None = None,
    mask: Mask | str | Path | None = None,
) -> Plot:
    """Return a chart of a run; `name` is one of SECTIONS.

    lang: the language that it is of, or that it colours, first; mask: a mask in the moetrace format, or its file, whose
    targets are coloured
    """
    if name not in SECTIONS:
        raise MoetraceError(f"no plot is called {name}; there are {', '.join(SECTIONS)}")
    store = place if isinstance(place, Store) else Store(place)
    record = store.run(run)
    languages = tuple(store.languages(record.run))
    if not languages:
        raise StoreError(f"{store.url}: run '{record.run}' has no finished shard yet, so there is nothing to plot")
    if lang is not None and lang not in languages:
        raise UnknownNameError.among("language", lang, languages, store.url)
    fitting = None if mask is None else fitting_mask(mask, record)
    targets = [*([lang] if lang else []), *(mask_targets(fitting) if fitting else [])]
    with connect(store) as connection:
        source = Source(connection, record, languages)
        section = SECTIONS[name](source, targets, fitting)
        figure = next((item for item in section.figures if item.name == name), None)
        if figure is None:
            raise MoetraceError(f"{name}: {section.missing or 'the run has nothing of it to draw'}")
        frames = {each: source.zone_frame if each == "zones" else section.datasets[each] for each in figure.datasets}
    data = {each: frame.fill_nan(None).to_dicts() for each, frame in frames.items()}
    spec = {**figure.spec, "datasets": {**figure.spec.get("datasets", {}), **data}}
    return Plot(name, spec, frames[figure.datasets[0]])


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


def isolation(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return how far apart languages are routed, layer by layer: mean, middle half and range of the pairs."""
    return plot("isolation", store, run=run).chart()


def pivot_lines(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return similarity to the pivot language by layer, a line a language; `lang` is coloured."""
    return plot("pivot_lines", store, run=run, lang=lang).chart()


def pivot_heat(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return similarity to the pivot language as a map of language by layer."""
    return plot("pivot_heat", store, run=run).chart()


def pivot_excess(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return excess similarity by layer: of a text and its own translation over mispaired ones; `lang` is coloured."""
    return plot("pivot_excess", store, run=run, lang=lang).chart()


def pairs(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return the square map of how alike every two languages are routed."""
    return plot("pairs", store, run=run).chart()


def specificity(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return the map of layer by expert of specificity for `lang`, or for the most specific language."""
    return plot("specificity", store, run=run, lang=lang).chart()


def entropy_lines(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return normalised routing entropy by layer, a line a language; `lang` is coloured."""
    return plot("entropy_lines", store, run=run, lang=lang).chart()


def entropy_heat(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return normalised routing entropy as a map of language by layer."""
    return plot("entropy_heat", store, run=run).chart()


def mask_grid(store: str | Path | Store, mask: Mask | str | Path, run: str | None = None) -> Chart:
    """Return a mask's experts by role, over how much they are used."""
    return plot("mask_grid", store, run=run, mask=mask).chart()


def mask_coverage(store: str | Path | Store, mask: Mask | str | Path, run: str | None = None) -> Chart:
    """Return the part of each language's routing decisions that a mask's experts take."""
    return plot("mask_coverage", store, run=run, mask=mask).chart()
