"""What the figures have in common: for print as for a screen, and told apart without colours."""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert

from moetrace.analytics.report.style import FAINT, INK, MUTED

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255", "#7f7f7f", "#44aa99")
DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4])
FONT = "Helvetica, Arial, sans-serif"


def series(names: list[str], title: str | None = None) -> dict[str, Any]:
    """Return the encodings that tell named lines apart: by colour and by dashes."""
    count = len(names)
    if count > len(COLOURS):
        raise ValueError(f"{count} lines: {len(COLOURS)} can be told apart")
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1) if count > 1 else None
    same: dict[str, Any] = {"title": title, "sort": names, "legend": legend}
    colours, dashes = (alt.Scale(domain=names, range=looks[:count]) for looks in (COLOURS, DASHES))
    return {
        "color": alt.Color("series:N", scale=colours, **same),
        "strokeDash": alt.StrokeDash("series:N", scale=dashes, **same),
    }


def svg(chart: Any) -> str:
    """Return a chart as SVG on white."""
    axis = {
        "labelFont": FONT,
        "titleFont": FONT,
        "labelColor": MUTED,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "domainColor": FAINT,
        "tickColor": FAINT,
        "gridColor": "#e6eaee",
    }
    text = {"labelFont": FONT, "titleFont": FONT, "titleFontWeight": "normal"}
    styled = chart.configure(
        background="white",
        font=FONT,
        axis=axis,
        legend={**text, "symbolStrokeWidth": 2, "symbolSize": 160},
        header={**text, "titleFontSize": 12, "labelFontSize": 12},
        title={"font": FONT, "fontSize": 12, "fontWeight": "normal", "anchor": "start"},
        view={"stroke": None},
    )
    found: str = vl_convert.vegalite_to_svg(styled.to_dict())
    return found
