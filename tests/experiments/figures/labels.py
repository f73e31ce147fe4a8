"""Names beside points, where they cover each other least."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACES: dict[str, dict[str, Any]] = {
    "right": {"align": "left", "baseline": "middle", "dx": 6},
    "left": {"align": "right", "baseline": "middle", "dx": -6},
    "above": {"align": "center", "baseline": "bottom", "dy": -5},
    "below": {"align": "center", "baseline": "top", "dy": 5},
}
WIDE, HIGH, DOT = 17.0, 10.0, 7.0  # pixels of a name of three letters, and of a dot

Box = tuple[float, float, float, float]  # left, top, right, bottom


def places(xs: Sequence[float], ys: Sequence[float], width: float, height: float, *, log_x: bool = False) -> list[str]:
    """Return which of PLACES each point's name takes, of points drawn on width x height pixels.

    From left to right each takes the place that covers least of the dots and of the names before it.
    """
    at = list(zip(_scaled([math.log(x) for x in xs] if log_x else xs, width), _scaled(ys, height), strict=True))
    taken = [(x - DOT / 2, y - DOT / 2, x + DOT / 2, y + DOT / 2) for x, y in at]
    found = [""] * len(at)
    for i in sorted(range(len(at)), key=lambda i: at[i]):
        boxes = {name: _box(*at[i], name) for name in PLACES}
        found[i] = min(boxes, key=lambda name: sum(_shared(boxes[name], other) for other in taken))
        taken.append(boxes[found[i]])
    return found


def _scaled(values: Sequence[float], size: float) -> list[float]:
    low, high = min(values), max(values)
    return [size * (value - low) / ((high - low) or 1.0) for value in values]


def _box(x: float, y: float, place: str) -> Box:
    if place in {"right", "left"}:
        start = x + 6 if place == "right" else x - 6 - WIDE
        return start, y - HIGH / 2, start + WIDE, y + HIGH / 2
    start = y + 5 if place == "above" else y - 5 - HIGH  # y grows upwards
    return x - WIDE / 2, start, x + WIDE / 2, start + HIGH


def _shared(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(high, 0.0)
