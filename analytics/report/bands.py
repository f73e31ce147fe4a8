"""What stands around a line over depth: its interval, the noise floor below which nothing is found, and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from moetrace.analytics.report.layer_charts import layer_axis
from moetrace.analytics.report.style import MUTED, OTHERS, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.uncertainty.curves import Curve


def band_frame(layers: Sequence[int], curve: Curve) -> pl.DataFrame:
    """Return the ends of a curve's interval: layer, low, high."""
    low, high = curve.interval()
    return pl.DataFrame({"layer": list(layers), "low": low, "high": high})


def interval_band(name: str, layers: Sequence[int], colour: str = SERIES[0]) -> alt.Chart:
    """Return the interval of a mean, from dataset `name` with layer, low and high."""
    base = alt.Chart(alt.NamedData(name)).encode(x=layer_axis(layers))
    band: alt.Chart = base.mark_area(color=colour, opacity=0.45).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    return band


def floor_band(name: str, layers: Sequence[int], text: str = "two samples of one language") -> tuple[alt.Chart, ...]:
    """Return the band of what is no finding, down to 0, and its label; from dataset `name` with layer and high."""
    base = alt.Chart(alt.NamedData(name)).encode(x=layer_axis(layers))
    band = base.mark_area(color=OTHERS, opacity=0.45).encode(y=alt.Y("high:Q"), y2=alt.datum(0))
    return band, _label(name, layers, "high", text)


def chance_line(name: str, layers: Sequence[int], text: str = "random sets") -> tuple[alt.Chart, ...]:
    """Return a dashed line of what chance alone gives and its label; from column `chance` of dataset `name`."""
    base = alt.Chart(alt.NamedData(name)).encode(x=layer_axis(layers))
    line = base.mark_line(color=MUTED, strokeDash=[4, 4], strokeWidth=1.2).encode(y=alt.Y("chance:Q"))
    return line, _label(name, layers, "chance", text)


def _label(name: str, layers: Sequence[int], column: str, text: str) -> alt.Chart:
    label: alt.Chart = (
        alt.Chart(alt.NamedData(name))
        .transform_filter(f"datum.layer === {layers[-1]}")
        .mark_text(align="right", baseline="bottom", dy=-3, fontSize=11, color=MUTED, text=text)
        .encode(x=layer_axis(layers), y=f"{column}:Q")
    )
    return label
