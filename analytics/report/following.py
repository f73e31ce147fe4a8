"""Charts that follow what a reader chooses on the page: languages in words, and those chosen marked in every chart."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from moetrace.analytics.report.line_parts import named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moetrace.analytics.report.names import Names

LANGUAGES = {"lang", "lang_a", "lang_b"}
PAINTED = {"rect", "bar"}
FADED = 0.2
NAME_WIDTH = 250  # pixels of a language's code and name on an axis


def following(spec: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return a figure's spec with what the page sets: `chosen` languages stand out, axes say languages in words.

    Cells and bars of other languages fade. A spec that has neither language nor line of one is returned as it was.
    """
    made = copy.deepcopy(dict(spec))
    declared = {param["name"] for param in made.get("params", ())}
    words = {f"l:{code}": names.label(code) for code in names.words}
    marked = False
    for unit in _units(made):
        marked |= _mark(unit)
    if marked and "chosen" not in declared:
        made["params"] = [{"name": "chosen", "value": []}, {"name": "names", "value": words}, *made.get("params", ())]
    for param in made.get("params", ()):
        if param["name"] == "names":
            param["value"] = words
    return made


def _units(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "mark" in spec:
        yield spec
    for part in ("layer", "concat", "hconcat", "vconcat"):
        for inner in spec.get(part, ()):
            yield from _units(inner)


def _mark(unit: dict[str, Any]) -> bool:
    """Mark the chosen languages of a mark; return whether it is of languages."""
    encoding = unit.get("encoding", {})
    mark = unit["mark"] if isinstance(unit["mark"], dict) else {"type": unit["mark"]}
    places = {side: encoding[side].get("field") for side in ("x", "y") if isinstance(encoding.get(side), dict)}
    fields = sorted({field for field in places.values() if field in LANGUAGES})
    if not fields:
        return False
    if mark["type"] in PAINTED and "opacity" not in encoding and "opacity" not in mark:
        test = " || ".join(["length(chosen) === 0", *(f"indexof(chosen, datum.{field}) >= 0" for field in fields)])
        encoding["opacity"] = {"condition": {"test": test, "value": 1}, "value": FADED}
    for side, field in places.items():
        axis = encoding[side].get("axis", {})
        if field in LANGUAGES and axis is not None:
            encoding[side]["axis"] = {**axis, **_axis(side)}
    return True


def _axis(side: str) -> dict[str, Any]:
    own = "indexof(chosen, datum.value) >= 0"
    bold = {"labelFontWeight": {"condition": {"test": own, "value": "bold"}, "value": "normal"}}
    return bold if side == "x" else {**bold, "labelExpr": named("datum.value"), "labelLimit": NAME_WIDTH}
