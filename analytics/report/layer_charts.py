"""Charts over the depth of the model: a line or a spread per layer with the zones behind, and language x layer heat.

Encodings are Altair's own channels, `alt.Y2("high:Q")`: of a bare "high:Q" it takes 10 ms to make one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from moetrace.analytics.report.line_parts import (
    BANDED,
    GROUPED,
    OWN,
    by_key,
    label_colour,
    line_colour,
    line_parameters,
    line_tooltip,
    named,
    spread_labels,
)
from moetrace.analytics.report.names import script_groups
from moetrace.analytics.report.style import BAND, FAINT, MUTED, SEQUENTIAL, SERIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEIGHT = 340
MOST_TICKS = 26
LABEL_STEP = 13
MOST_LABELS = 24
MOST_LABEL_WIDTH = 220
MOST_LINES = 40  # languages up to which each has a line of its own; beyond, each script has one


@dataclass(frozen=True)
class Value:
    """What a chart shows: the column, its name with its unit for the axis, and a d3 number format.

    `low` and `high` are the columns of the ends of its interval, where the dataset has one.
    """

    column: str
    title: str
    number: str = ".3f"
    low: str | None = None
    high: str | None = None

    @property
    def label(self) -> str:
        """Return its name in a tooltip."""
        return self.column.replace("_", " ")

    @property
    def tooltip(self) -> alt.Tooltip:
        """Return the tooltip's line for it."""
        return alt.Tooltip(f"{self.column}:Q", title=self.label, format=self.number)


def layer_axis(layers: Sequence[int]) -> alt.X:
    """Return the horizontal axis that every chart over depth shares."""
    every = tick_step(layers[-1] - layers[0] + 1)
    ticks = [layer for layer in layers if layer % every == 0]
    scale = alt.Scale(domain=[layers[0] - 0.5, layers[-1] + 0.5], nice=False, zero=False)
    return alt.X("layer:Q", scale=scale, axis=alt.Axis(values=ticks, format="d", grid=False, title="MoE layer"))


def series_legend(words: Mapping[str, str] | None = None) -> alt.Legend:
    """Return the legend of a chart of a few lines, over the zones' names.

    words: series -> what it is called
    """
    said: Any = alt.Undefined
    if words:
        said = " : ".join(f"datum.label === {key!r} ? {text!r}" for key, text in words.items()) + " : datum.label"
    return alt.Legend(symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2.4, labelExpr=said, offset=24)


def tick_step(count: int) -> int:
    """Return the power of two at which an axis of `count` layers or experts has labels that do not touch."""
    step = 1
    while count > MOST_TICKS * step:
        step *= 2
    return step


def on_zones(layers: Sequence[int], *marks: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """Return marks over depth, drawn on the zones' bands."""
    zones = alt.Chart(alt.NamedData("zones"))
    bands = zones.mark_rect().encode(
        x=layer_axis(layers).copy(deep=True),
        x2=alt.X2("end:Q"),
        color=alt.condition("datum.shade === 1", alt.value(BAND), alt.value("transparent")),
    )
    bands.encoding.x.shorthand = "start:Q"
    names = zones.mark_text(baseline="bottom", color=MUTED, fontSize=11).encode(
        x=alt.X("middle:Q"), y=alt.value(-6), text=alt.Text("zone:N")
    )
    return alt.LayerChart(
        layer=[bands, names, *marks],
        width="container",
        height=HEIGHT,
        padding={"left": 4, "right": 8, "top": 24, "bottom": 4},
    )


def highlighted(ranked: Sequence[str], always: Sequence[str] = ()) -> list[str]:
    """Return the languages to colour: all where colours suffice, else `always` and both ends of the ranking."""
    if len(ranked) <= len(SERIES):
        return list(ranked)
    chosen = [lang for lang in dict.fromkeys(always) if lang in ranked]
    from_ends = [lang for pair in zip(ranked, reversed(ranked), strict=True) for lang in pair]
    return sorted(dict.fromkeys([*chosen, *from_ends][: len(SERIES)]), key=list(ranked).index)


def coloured_last(frame: pl.DataFrame, coloured: Sequence[str]) -> pl.DataFrame:
    """Return the frame with the coloured languages at its end, so that their lines are drawn over the others."""
    return frame.sort(pl.col("lang").is_in(list(coloured)), maintain_order=True)


def value_range(frame: pl.DataFrame, value: Value) -> tuple[float, float]:
    """Return the ends of the value's axis: the data, and their intervals, with some air."""
    columns = [column for column in (value.column, value.low, value.high) if column]
    numbers = frame.select(columns).fill_nan(None)
    low = min(float(series.min()) for series in numbers if series.min() is not None)  # type: ignore[arg-type]
    high = max(float(series.max()) for series in numbers if series.max() is not None)  # type: ignore[arg-type]
    air = 0.04 * (high - low) or 0.05
    return low - air, high + air


def language_lines(
    name: str,
    value: Value,
    frame: pl.DataFrame,
    layers: Sequence[int],
    coloured: Sequence[str],
    *,
    floor: str | None = None,
    over: Sequence[str] = (),
) -> alt.LayerChart:
    """Return one line a language from dataset `name`; hovering singles one out.

    Of more than MOST_LINES languages each script has a line, the mean in a band of its languages' range, and those in
    `over` have lines of their own over it. Chosen languages, at first `coloured`, are drawn with their intervals.

    floor: a dataset of columns layer, low, high: between them a value is noise
    """
    languages = frame["lang"].unique(maintain_order=True).to_list()
    many = len(languages) > MOST_LINES
    chosen = [lang for lang in over if lang in languages] if many else list(coloured)
    groups = script_groups(languages) if many else {}
    low, high = value_range(frame, value)
    y = alt.Y("value:Q", title=value.title, scale=alt.Scale(domain=[low, high], nice=False, zero=False))
    hover = alt.selection_point(
        name="hover", on="pointerover", clear="pointerout", fields=["key"], nearest=True, empty=True
    )
    shown = alt.condition(hover, alt.value(1.0), alt.value(0.15))
    rows = alt.Chart().encode(x=layer_axis(layers))
    band = rows.encode(detail=alt.Detail("key:N")).mark_area(clip=True)
    line = rows.mark_line(strokeJoin="round").encode(
        y=y, detail=alt.Detail("key:N"), color=line_colour(), opacity=shown
    )
    width = alt.when(hover, empty=False).then(alt.value(2.6))
    dash = alt.ExprRef(f"indexof(chosen, datum.key) >= {len(SERIES)} ? [6, 3] : [1, 0]")
    drawn = [
        band.transform_filter("datum.members > 1").encode(
            y=alt.Y("least:Q", title=value.title),
            y2=alt.Y2("most:Q"),
            color=line_colour(),
            opacity=alt.OpacityValue(0.08),
        ),
        line.transform_filter(f"!({OWN})").encode(
            strokeWidth=width.otherwise(alt.value(alt.ExprRef(f"{GROUPED} ? 1.8 : 1.1")))
        ),
        line.transform_filter(OWN).encode(strokeWidth=width.otherwise(alt.value(2.0)), strokeDash=alt.value(dash)),
        rows.mark_point(filled=True, size=42)
        .encode(
            y=y,
            color=line_colour(),
            opacity=alt.when(hover, empty=False).then(alt.value(1.0)).otherwise(alt.value(0.0)),
            tooltip=line_tooltip(value.label, value.number),
        )
        .add_params(hover),
        spread_labels(rows, layers[-1], LABEL_STEP * (high - low) / HEIGHT, high, MOST_LABELS)
        .mark_text(align="left", baseline="middle", dx=8, fontSize=11, limit=MOST_LABEL_WIDTH)
        .encode(
            x=alt.value("width"),
            y=alt.Y("label:Q"),
            text=alt.TextValue(alt.ExprRef(named("datum.key"))),
            color=label_colour(),
            opacity=shown,
        ),
    ]
    if value.low and value.high:
        ends = band.transform_filter(f"{BANDED} && isValid(datum.low)")
        drawn.insert(
            1,
            ends.encode(
                y=alt.Y("low:Q", title=value.title),
                y2=alt.Y2("high:Q"),
                color=line_colour(),
                opacity=alt.OpacityValue(0.18),
            ),
        )
    lines = by_key(alt.LayerChart(data=alt.NamedData(name), layer=drawn), value.column, value.low, value.high)
    noise = _noise_floor(floor, layers, value) if floor else ()
    return on_zones(layers, *noise, lines).add_params(*line_parameters(chosen, groups))


def _noise_floor(name: str, layers: Sequence[int], value: Value) -> tuple[alt.Chart, alt.Chart]:
    """Return the band of dataset `name` between whose ends a value is noise, and its label."""
    base = alt.Chart(alt.NamedData(name)).encode(x=layer_axis(layers))
    edge = {"color": MUTED, "strokeDash": [2, 2], "strokeWidth": 1}
    band = base.mark_area(color=FAINT, opacity=0.45, clip=True, line=edge).encode(
        y=alt.Y("high:Q", title=value.title), y2=alt.Y2("low:Q")
    )
    text = (
        base.transform_filter(f"datum.layer === {layers[0]}")
        .mark_text(
            align="left", baseline="bottom", dx=4, dy=-3, fontSize=11, color=MUTED, text="noise floor", clip=True
        )
        .encode(y=alt.Y("high:Q", title=value.title))
    )
    return band, text


def nearest_tooltip(
    names: Mapping[str, str], numbers: Mapping[str, str], number_format: str = ".3f"
) -> alt.TooltipValue:
    """Return what hovering near a point says: title -> column, of columns as they are and of fractions.

    An expression, because Vega-Lite 6.4 loses text columns in the tooltips of marks that are found by nearness.
    """
    row = "(datum.datum || datum)"
    lines = [f"{title!r}: {row}.{column}" for title, column in names.items()]
    lines += [f"{title!r}: format({row}.{column}, {number_format!r})" for title, column in numbers.items()]
    return alt.TooltipValue(alt.ExprRef("{" + ", ".join(lines) + "}"))


def language_heat(name: str, value: Value, languages: Sequence[str]) -> alt.Chart:
    """Return a heat map of dataset `name`, a row a language in the given order, a column a layer."""
    step = row_step(len(languages))
    chart: alt.Chart = (
        alt.Chart(alt.NamedData(name))
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="MoE layer", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False)),
            y=alt.Y(
                "lang:N",
                title=None,
                sort=list(languages),
                axis=alt.Axis(labelFontSize=min(11, step - 1), labelOverlap=True, ticks=False, domain=False),
            ),
            color=alt.Color(
                f"{value.column}:Q",
                title=value.title,
                scale=alt.Scale(range=list(SEQUENTIAL), zero=False, nice=False),
                legend=alt.Legend(format=".3~g"),
            ),
            tooltip=[alt.Tooltip("lang:N", title="language"), alt.Tooltip("layer:O"), value.tooltip],
        )
        .properties(width="container", height=step * len(languages))
    )
    return chart


def row_step(rows: int) -> int:
    """Return the height of a heat map's row in pixels: generous for few, small but legible for many."""
    return max(9, min(26, 900 // max(rows, 1)))
