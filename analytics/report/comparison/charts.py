"""Charts of two runs: curves of both over depth, their difference, and differences by language."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from moetrace.analytics.report.layer_charts import (
    HEIGHT,
    layer_axis,
    nearest_tooltip,
    on_zones,
    row_step,
    series_legend,
)
from moetrace.analytics.report.style import MUTED, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.comparison.pair import Pair


def over_depth(pair: Pair, *marks: alt.Chart) -> alt.LayerChart:
    """Return marks with x `depth:Q` over the layers and zones of both, or over 0 to 1 where their layers differ."""
    if pair.same_layers:
        return on_zones(pair.first.record.moe_layers, *marks)
    return alt.LayerChart(layer=list(marks)).properties(width="container", height=HEIGHT)


def depth_axis(pair: Pair) -> alt.X:
    """Return the axis of depth."""
    if pair.same_layers:
        axis = layer_axis(pair.first.record.moe_layers).copy(deep=True)
        axis.shorthand = "depth:Q"
        return axis
    scale = alt.Scale(domain=[0, 1], nice=False)
    return alt.X("depth:Q", scale=scale, axis=alt.Axis(format=".0%", grid=False, title="depth of the MoE layers"))


def both_curves(pair: Pair, name: str, title: str, *, names: tuple[str, str] | None = None) -> alt.LayerChart:
    """Return the curves of both runs, or of what `names` says, with their intervals.

    From dataset `name` with run, layer, depth, value, low, high.
    """
    domain = list(names or pair.names)
    legend = series_legend()
    colour = alt.Color("run:N", title=None, scale=alt.Scale(domain=domain, range=list(SERIES[:2])), legend=legend)
    base = alt.Chart(alt.NamedData(name)).encode(x=depth_axis(pair), color=colour)
    dashes = alt.StrokeDash("run:N", scale=alt.Scale(domain=domain, range=[[1, 0], [6, 3]]), title=None, legend=legend)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    band = (
        base.transform_filter("isValid(datum.low)")
        .mark_area(opacity=0.25)
        .encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    )
    line = base.mark_line(strokeWidth=2.2, strokeJoin="round").encode(y=y, strokeDash=dashes)
    hover = alt.selection_point(
        name="hover", on="pointerover", clear="pointerout", fields=["depth"], nearest=True, empty=False
    )
    tip = nearest_tooltip({"run": "run", "layer": "layer"}, {"value": "value", "from": "low", "to": "high"}, ".3f")
    points = base.mark_point(filled=True, size=42, opacity=1).encode(y=y, tooltip=tip).add_params(hover)
    return over_depth(pair, band, line, points)


def difference_curve(pair: Pair, name: str, title: str) -> alt.LayerChart:
    """Return a difference by layer with its interval and the line of none, from dataset `name` as `both_curves`."""
    base = alt.Chart(alt.NamedData(name)).encode(x=depth_axis(pair))
    band = (
        base.transform_filter("isValid(datum.low)")
        .mark_area(color=SERIES[2], opacity=0.25)
        .encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    )
    none = _zero().encode(y=alt.Y("none:Q"))
    hover = alt.selection_point(
        name="hover", on="pointerover", clear="pointerout", fields=["depth"], nearest=True, empty=False
    )
    tip = nearest_tooltip({"layer": "layer"}, {"difference": "value", "from": "low", "to": "high"}, ".4f")
    y = alt.Y("value:Q", title=title)
    line = base.mark_line(color=SERIES[2], strokeWidth=2.2).encode(y=y)
    points = (
        base.mark_point(filled=True, size=42, color=SERIES[2], opacity=1).encode(y=y, tooltip=tip).add_params(hover)
    )
    return over_depth(pair, band, none, line, points).properties(height=220)


def by_language(name: str, languages: Sequence[str], title: str) -> alt.LayerChart:
    """Return a difference of each language with its interval, from dataset `name` with lang, value, low, high."""
    step = max(12, row_step(len(languages)))
    y = alt.Y("lang:N", title=None, sort=list(languages), axis=alt.Axis(ticks=False, domain=False, labelOverlap=True))
    base = alt.Chart(alt.NamedData(name)).encode(
        y=y,
        tooltip=[
            alt.Tooltip("lang:N", title="language"),
            alt.Tooltip("value:Q", title="difference", format=".4f"),
            alt.Tooltip("low:Q", title="from", format=".4f"),
            alt.Tooltip("high:Q", title="to", format=".4f"),
        ],
    )
    none = _zero().encode(x=alt.X("none:Q"))
    reach = base.mark_rule(color=SERIES[0], strokeWidth=1.6).encode(x=alt.X("low:Q", title=title), x2=alt.X2("high:Q"))
    dots = base.mark_point(filled=True, size=46, color=SERIES[0], opacity=1).encode(x=alt.X("value:Q", title=title))
    return alt.LayerChart(layer=[none, reach, dots]).properties(width="container", height=step * len(languages))


def _zero() -> alt.Chart:
    """Return the dashed line of no difference, to be put on an axis as `none:Q`."""
    zero: alt.Chart = alt.Chart(alt.InlineData(values=[{"none": 0}])).mark_rule(color=MUTED, strokeDash=[4, 4])
    return zero
