"""The figure of the steering experiment: what each strength does, beside the same done to other experts."""

from __future__ import annotations

from typing import Any

import altair as alt

from moetrace.analytics.evaluation.paired import EVERY
from tests.experiments.figures.style import series
from tests.experiments.steer.tables import ACCURACY, BITS

WIDTH, HEIGHT = 330, 240
PANELS = {ACCURACY: "accuracy", BITS: "bits a byte of the right text"}
NAMES = {
    None: "task experts of English",
    "random": "random experts",
    "load": "of the same load",
    "outside": "other layers",
}


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the difference from the baseline of each arm, and of the mean of each kind of its controls."""
    values = {(row["arm"], row["metric"]): row for row in results["scores"] if row["lang"] == EVERY}
    kinds: dict[tuple[str, str], list[str]] = {}
    for arm in results["arms"]:
        if arm["kind"] == "control":
            kinds.setdefault((arm["of"], arm["control"]), []).append(arm["name"])
    rows = []
    for row in results["comparisons"]:
        if row["lang"] != EVERY or row["metric"] not in PANELS or row["against"] != "baseline":
            continue
        arm, metric = row["arm"], row["metric"]
        common = {"panel": PANELS[metric], "arm": arm}
        rows.append({**common, "series": NAMES[None], **{name: row[name] for name in ("difference", "lower", "upper")}})
        for (of, control), names in kinds.items():
            if of == arm:
                mean = sum(values[name, metric]["value"] for name in names) / len(names)
                rows.append({**common, "series": NAMES[control], "difference": round(mean - row["other"], 5)})
    return rows


def chart(results: dict[str, Any]) -> alt.HConcatChart:
    """Draw the differences from the baseline, a panel for each measure."""
    rows = rows_of(results)
    order = [arm["name"] for arm in results["arms"] if arm["kind"] == "intervention"]
    encoded = series(list(NAMES.values()), "steered")
    panels = []
    for metric, panel in PANELS.items():
        base = alt.Chart(alt.Data(values=[row for row in rows if row["panel"] == panel]))
        x = alt.X("arm:N", sort=order, title=None, axis=alt.Axis(labelAngle=-40))
        title = f"{panel}, less unsteered"
        # What other layers cost is a hundred times what the middle does.
        wide = metric == BITS
        scale = alt.Scale(type="symlog", constant=0.01) if wide else alt.Scale()
        axis = alt.Axis(values=[0, 0.01, 0.03, 0.1, 0.3, 1, 3], format="~g") if wide else alt.Axis()
        y = alt.Y("difference:Q", title=title, scale=scale, axis=axis)
        zero = base.mark_rule(color="#6b7684").encode(y=alt.datum(0))
        whiskers = (
            base.transform_filter("isValid(datum.lower)")
            .mark_rule(strokeWidth=1.5)
            .encode(x=x, y=alt.Y("lower:Q", title=title, scale=scale, axis=axis), y2="upper:Q", color=encoded["color"])
        )
        lines = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=36)).encode(x=x, y=y, **encoded)
        panels.append(alt.layer(zero, lines, whiskers).properties(width=WIDTH, height=HEIGHT))
    return alt.hconcat(*panels)


FIGURES = {"steer": chart}
