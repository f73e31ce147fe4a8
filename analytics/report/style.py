"""How every chart looks: the colours, and the Vega-Lite configuration that the page applies to all of them."""

from __future__ import annotations

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif"
PRINTED_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK = "#1c2733"
MUTED = "#5d6b7a"
FAINT = "#c3ccd5"
HAIRLINE = "#e6eaee"
BAND = "#f3f5f8"

# Okabe & Ito's colours, which readers with any colour vision can tell apart, without the yellow that white swallows.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255")

# Light to dark, even in lightness: more is darker, in print too.
SEQUENTIAL = ("#f5f8fb", "#d3e3ef", "#a3c6de", "#69a3c7", "#3a7dab", "#1f5a8a", "#123c66", "#0a2342")

# Purple for less than average, orange for more: a pair that colour-blind readers keep apart.
DIVERGING = ("#40286b", "#7a62a8", "#b3a6d0", "#e0dcec", "#f7f7f7", "#fbdcb5", "#f3ae5c", "#cc730d", "#7a3f05")

ROLES = {"specific": "#d55e00", "shared": "#0072b2", "task": "#009e73"}
OTHERS = "#b6c0ca"  # languages without a colour of their own
GREYS = ("#fdfdfe", "#eef1f4", "#d9dfe5", "#bcc5ce")

# The same on a dark page. What is more stands out from the page: brighter there, darker here.
DARK_INK = "#e4eaf0"
DARK_SERIES = ("#4fa9e2", "#ff8b3d", "#2cc795", "#e29bc4", "#f2bd3f", "#93d4f7", "#f1f4f7", "#d8709f")
DARK_SEQUENTIAL = ("#1b2530", "#1d3a55", "#1f4f78", "#2a6a9e", "#4489bf", "#72aad6", "#a8cdea", "#e3f1fb")
DARK_DIVERGING = ("#9d82dc", "#7f69b5", "#5f5189", "#403a58", "#232a32", "#543d22", "#8f5c1c", "#cf8426", "#ffbd66")
DARK_GREYS = ("#171e26", "#242d37", "#35414d", "#4d5a68")
DARK = {
    MUTED: "#9dabb9",
    FAINT: "#46535f",
    HAIRLINE: "#2a343f",
    BAND: "#1d252e",
    OTHERS: "#4f5c69",
    **dict(zip(SERIES, DARK_SERIES, strict=True)),
    **dict(zip(SEQUENTIAL, DARK_SEQUENTIAL, strict=True)),
    **dict(zip(DIVERGING, DARK_DIVERGING, strict=True)),
    **dict(zip(GREYS, DARK_GREYS, strict=True)),
}


def configuration(*, dark: bool = False) -> dict[str, Any]:
    """Return the Vega-Lite configuration of every chart on the page."""
    ink, muted, faint, hairline = (
        (DARK_INK, DARK[MUTED], DARK[FAINT], DARK[HAIRLINE]) if dark else (INK, MUTED, FAINT, HAIRLINE)
    )
    label = {"labelColor": muted, "labelFont": FONT, "labelFontSize": 11}
    title = {"titleColor": ink, "titleFont": FONT, "titleFontSize": 12, "titleFontWeight": 500}
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **label,
            **title,
            "domainColor": faint,
            "gridColor": hairline,
            "tickColor": faint,
            "tickSize": 4,
            "labelPadding": 4,
            "titlePadding": 10,
            "labelLimit": 160,
        },
        "legend": {
            **label,
            **title,
            "orient": "top",
            "direction": "horizontal",
            "titleOrient": "left",
            "titlePadding": 8,
            "titleLimit": 420,
            "gradientLength": 220,
            "gradientThickness": 10,
            "offset": 12,
            "symbolType": "square",
            "layout": {"top": {"anchor": "start", "direction": "horizontal", "margin": 40}},
        },
        "title": {"color": ink, "font": FONT, "fontSize": 12, "fontWeight": 500, "anchor": "start", "offset": 8},
        "text": {"color": muted, "font": FONT, "fontSize": 11},
        "scale": {"bandPaddingInner": 0, "bandPaddingOuter": 0, "rectBandPaddingInner": 0},
    }


def printed_configuration() -> dict[str, Any]:
    """Return the configuration of a chart on paper: white, in fonts that every printer has."""
    printed = configuration() | {"background": "white", "font": PRINTED_FONT}
    for part in ("axis", "legend"):
        printed[part] = {**printed[part], "labelFont": PRINTED_FONT, "titleFont": PRINTED_FONT}
    printed["legend"] |= {"titleOrient": "top", "gradientLength": 160}
    del printed["legend"]["layout"]  # Vega takes it, Altair's schema does not
    for part in ("title", "text"):
        printed[part] = {**printed[part], "font": PRINTED_FONT}
    return printed
