"""What a chart of the report needs on paper: lines told apart and maps read without colour; and on dark backgrounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.analytics.report.style import BAND, DIVERGING, FAINT, GREYS, MUTED, OTHERS, SERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Spec = dict[str, Any]

# Lengths in pixels of what is drawn and left out, in turns; one for each of SERIES.
DASHES = ([1, 0], [7, 2], [2, 2], [9, 2, 2, 2], [4, 4], [14, 3], [1, 3], [9, 2, 2, 2, 2, 2])
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
    found: Spec = _changed(spec, _darkening)
    if "layer" not in found:
        return found
    layers: list[Spec] = []
    for layer in found["layer"]:
        named, kind = _named_lines(layer), layer["mark"]["type"]
        if named and kind == "line":
            layers.append(_encoded(layer, strokeDash=_dashes(named)))
        elif named and kind == "text":
            room = {**layer["mark"], "dx": layer["mark"].get("dx", 0) + SAMPLE}
            layers += [_samples(layer, named), {**layer, "mark": room}]
        else:
            layers.append(layer)
    if len(layers) > len(found["layer"]) and isinstance(found.get("padding"), dict):
        found["padding"] = {**found["padding"], "right": found["padding"].get("right", 0) + SAMPLE}
    return {**found, "layer": layers}


def darkened(spec: Spec) -> Spec:
    """Return a spec whose colours can be seen on a dark background."""
    found: Spec = _changed(spec, lambda value: ON_DARK.get(value, value) if isinstance(value, str) else value)
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


def _named_lines(layer: Mapping[str, Any]) -> Spec | None:
    """Return how a layer colours the languages that have a colour, where it does: test, field and scale."""
    colour = layer.get("encoding", {}).get("color", {}).get("condition", {})
    return colour if isinstance(colour, dict) and {"test", "field", "scale"} <= colour.keys() else None


def _dashes(named: Spec) -> Spec:
    domain = named["scale"]["domain"]
    scale = {"domain": domain, "range": [list(dash) for dash in DASHES[: len(domain)]]}
    return {"condition": {**named, "scale": scale}, "value": [1, 0]}


def _samples(labels: Spec, named: Spec) -> Spec:
    """Return a short piece of each coloured line, left of its name."""
    start = labels["mark"].get("dx", 0)
    across = {"x": {"value": {"expr": f"width + {start}"}}, "x2": {"value": {"expr": f"width + {start + SAMPLE - 6}"}}}
    encoding = {"y": labels["encoding"]["y"], **across, "color": labels["encoding"]["color"]}
    return {
        "data": labels["data"],
        "transform": [{"filter": named["test"]}],
        "mark": {"type": "rule", "strokeWidth": 1.8},
        "encoding": {**encoding, "strokeDash": _dashes(named)},
    }


def _encoded(layer: Spec, **channels: Spec) -> Spec:
    return {**layer, "encoding": {**layer["encoding"], **channels}}
