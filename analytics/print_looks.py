"""What a chart of the report needs on paper: lines told apart and maps read without colour; and on dark backgrounds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from moetrace.analytics.report.line_parts import OWN, PLAIN
from moetrace.analytics.report.style import BAND, DIVERGING, FAINT, GREYS, MUTED, OTHERS, SERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Spec = dict[str, Any]

# Lengths in pixels of what is drawn and left out, in turns; one for each of SERIES.
DASHES = [[1, 0], [7, 2], [2, 2], [9, 2, 2, 2], [4, 4], [14, 3], [1, 3], [9, 2, 2, 2, 2, 2]]
DASH = (  # of a line with a colour of its own, by its place in the palette
    f"{DASHES}[({OWN} ? indexof(chosen, datum.key) : {PLAIN} ? indexof(groups, datum.key) : 0) % {len(DASHES)}]"
)
COLOUR = re.compile("#[0-9a-f]{6}")
SAMPLE = 30  # pixels of a line before its name
# Purple below the middle, orange above, as DIVERGING, but ever darker.
FALLING = ("#f8f5fc", "#e9e2f3", "#d9cdeb", "#c9bbd2", "#d29a58", "#b97522", "#93530c", "#643404", "#331800")
PALE_GREYS = ("#ffffff", "#f4f6f8", "#e9edf0", "#dde2e7")
ROLES = {"shared": "#003450", "specific": "#c05300", "task": "#3fb391"}
ON_DARK = {
    BAND: "#414141",
    MUTED: "#c8c8c8",
    FAINT: "#7d7d7d",
    OTHERS: "#8c8c8c",
    **dict(
        zip(
            SERIES,
            ("#8f9dff", "#f58a4b", "#2fc79a", "#e39cc4", "#ffbe3d", "#6fc4f5", "#ffffff", "#d96a93"),
            strict=True,
        )
    ),
}


def printed(spec: Spec) -> Spec:
    """Return a spec whose lines have dashes, shown before their names, and whose maps grow darker all the way."""
    found: Spec = _changed(_changed(spec, _darkening), _with_dashes)
    return found


def darkened(spec: Spec) -> Spec:
    """Return a spec whose colours can be seen on a dark background."""
    found: Spec = _changed(spec, _on_dark)
    return found


def layout(configuration: Mapping[str, Any]) -> Spec:
    """Return what of a configuration is neither a colour nor a font, for a theme that has its own."""
    return {
        part: {name: value for name, value in settings.items() if not name.lower().endswith(("color", "font"))}
        for part, settings in configuration.items()
        if isinstance(settings, dict)
    }


def luminance(colour: str) -> float:
    """Return the relative luminance of #rgb or #rrggbb, 0 to 1 (WCAG 2, that of sRGB's primaries)."""
    digits = colour.removeprefix("#")
    parts = [int(digit * (2 // (len(digits) // 3)), 16) / 255 for digit in _thirds(digits)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _thirds(digits: str) -> list[str]:
    each = len(digits) // 3
    return [digits[each * index : each * (index + 1)] for index in range(3)]


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tree of JSON with every value changed, the outer ones last; data are left as they are."""
    if isinstance(value, dict):
        value = {name: one if name == "datasets" else _changed(one, change) for name, one in value.items()}
    elif isinstance(value, list):
        value = [_changed(one, change) for one in value]
    return change(value)


def _darkening(value: Any) -> Any:
    if value == list(DIVERGING):
        return list(FALLING)
    if value == list(GREYS):
        return list(PALE_GREYS)
    if isinstance(value, dict) and value.get("field") == "role" and "scale" in value:
        scale = value["scale"]
        return {**value, "scale": {**scale, "range": [ROLES[role] for role in scale["domain"]]}}
    return value


def _on_dark(value: Any) -> Any:
    """Return a text with its colours changed: it is one, or an expression of Vega's that has some."""
    return COLOUR.sub(lambda found: ON_DARK.get(found[0], found[0]), value) if isinstance(value, str) else value


def _with_dashes(value: Any) -> Any:
    """Return layers of lines that have colours of their own with dashes, and with a sample of each before its name."""
    if not (isinstance(value, dict) and any(_has_colours(layer) for layer in value.get("layer", ()))):
        return value
    layers: list[Spec] = []
    for layer in value["layer"]:
        kind = layer.get("mark", {}).get("type") if _has_colours(layer) else None
        if kind == "line":
            layers.append(_encoded(layer, strokeDash={"value": {"expr": DASH}}))
        elif kind == "text":
            room = {**layer["mark"], "dx": layer["mark"].get("dx", 0) + SAMPLE}
            layers += [_samples(layer), {**layer, "mark": room}]
        else:
            layers.append(layer)
    return {**value, "layer": layers}


def _has_colours(layer: Mapping[str, Any]) -> bool:
    """Return whether marks have the colours of chosen languages, or of groups of them: `line_parts.line_colour`."""
    colour = layer.get("encoding", {}).get("color", {}).get("value", {})
    return isinstance(colour, dict) and "palette[" in str(colour.get("expr"))


def _samples(labels: Spec) -> Spec:
    """Return a short piece of each line that has a colour, left of its name."""
    start = labels["mark"].get("dx", 0)
    across = {"x": {"value": {"expr": f"width + {start}"}}, "x2": {"value": {"expr": f"width + {start + SAMPLE - 6}"}}}
    encoding = {name: labels["encoding"][name] for name in ("y", "color", "opacity") if name in labels["encoding"]}
    return {
        "transform": [*labels.get("transform", []), {"filter": f"{OWN} || ({PLAIN})"}],
        "mark": {"type": "rule", "strokeWidth": 1.8},
        "encoding": {**encoding, **across, "strokeDash": {"value": {"expr": DASH}}},
    }


def _encoded(layer: Spec, **channels: Spec) -> Spec:
    return {**layer, "encoding": {**layer["encoding"], **channels}}
