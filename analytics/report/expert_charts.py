"""Charts of single experts: a grid with a row a MoE layer, a column an expert, and the zones named at its side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from moetrace.analytics.report.layer_charts import row_step, tick_step
from moetrace.analytics.report.style import DIVERGING, MUTED, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

ZONE_SPACE = 64
FOLD = 3  # doublings at which the colours of specificity end: an eighth to eight times


def on_grid(layers: int, *marks: alt.Chart) -> alt.LayerChart:
    """Return marks on the layer x expert grid with lines between zones, and a frame round the expert that is open."""
    zones = alt.Chart(alt.NamedData("zones"))
    edges = zones.transform_filter("datum.ordinal > 0").mark_rule(color=MUTED, strokeDash=[3, 3])
    names = zones.mark_text(align="left", baseline="top", dx=10, dy=4, color=MUTED, fontSize=11)
    start = alt.Y("first:O", bandPosition=0)
    of_zones = (edges.encode(y=start), names.encode(x=alt.value("width"), y=start, text=alt.Text("zone:N")))
    opened = (
        alt.Chart(alt.InlineData(values=[{}]))
        .transform_filter("openLayer >= 0")
        .transform_calculate(layer="openLayer", expert="openExpert")
        .mark_rect(fill="transparent", stroke=SERIES[6], strokeWidth=2.5)
        .encode(x=alt.X("expert:O"), y=alt.Y("layer:O"))
    )
    grid = alt.LayerChart(layer=[*marks, *of_zones, opened]).properties(
        width="container",
        height=max(160, min(22, row_step(layers)) * layers),
        padding={"left": 4, "right": ZONE_SPACE, "top": 4, "bottom": 4},
    )
    return grid.add_params(alt.param(name="openLayer", value=-1), alt.param(name="openExpert", value=-1))


def expert_axis(experts: int) -> alt.X:
    """Return the axis of the experts of a layer."""
    axis = alt.Axis(
        values=list(range(0, experts, tick_step(experts))), labelAngle=0, ticks=False, domain=False, title="expert"
    )
    return alt.X("expert:O", axis=axis)


def layer_rows(layers: Sequence[int]) -> alt.Y:
    """Return the axis of the MoE layers, the first on top."""
    axis = alt.Axis(labelOverlap=True, ticks=False, domain=False, title="MoE layer")
    return alt.Y("layer:O", axis=axis, scale=alt.Scale(domain=list(layers)))


def fold_colour(title: str) -> alt.Color:
    """Return the colours of `fold`, log2 of a specificity: purple below 1, orange above."""
    return alt.Color(
        "fold:Q",
        title=title,
        scale=alt.Scale(domain=[-FOLD, FOLD], range=list(DIVERGING), clamp=True),
        legend=alt.Legend(
            values=list(range(-FOLD, FOLD + 1)),
            labelExpr="datum.value < 0 ? '1/' + pow(2, -datum.value) : pow(2, datum.value) + '\\u00d7'",
        ),
    )


def folded(chart: alt.Chart) -> alt.Chart:
    """Return the chart with `fold` computed from `specificity`, an unused expert at the scale's end."""
    return chart.transform_calculate(fold=f"log(max(datum.specificity, pow(2, -{FOLD}))) / LN2")
