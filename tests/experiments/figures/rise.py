"""The figure of the experiment: what the target gains against what other languages lose."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from tests.experiments.figures.style import series
from tests.experiments.rise.tables import curves_of, methods_of

WIDTH, HEIGHT = 330, 260
LEFT_OUT = {"full 0.001", "full 0.0003", "full 3e-05", "full 1e-05"}  # of everything, the best of its rates is drawn
POINTS = 40
MOST = 1.0  # nats of damage


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the mean curve over seeds of each way to train, as far as all seeds reach, with its standard deviation."""
    rows = []
    for target in results["targets"]:
        for similar, kind in ((False, "all others"), (True, "the most similar")):
            for method, by_seed in curves_of(results, target, similar=similar).items():
                reach = min(MOST, *(curve.reach for found in by_seed.values() for curve in found))
                if method in LEFT_OUT or reach <= 0:
                    continue
                for damage in reach * np.linspace(0, 1, POINTS) ** 2:
                    gains = [np.mean([curve.gain_at(damage) for curve in found]) for found in by_seed.values()]
                    spread = float(np.std(gains, ddof=1)) if len(gains) > 1 else 0.0
                    value = float(np.mean(gains))
                    rows.append(
                        {
                            "panel": f"{target}: {kind}",
                            "series": method,
                            "damage": round(float(damage), 5),
                            "gain": round(value, 5),
                            "lower": round(value - spread, 5),
                            "upper": round(value + spread, 5),
                        }
                    )
    return rows


def chart(results: dict[str, Any]) -> alt.Chart:
    """Draw gain against damage, a panel for each target and kind of damage."""
    rows = rows_of(results)
    names = [name for name in methods_of(results) if name not in LEFT_OUT]
    encoded = series(names, "trained")
    x = alt.X("damage:Q", title="others' loss, nats a token", scale=alt.Scale(type="sqrt", nice=False))
    base = alt.Chart(alt.Data(values=rows))
    band = base.mark_area(opacity=0.12).encode(
        x=x, y=alt.Y("lower:Q", title="target's gain, nats a token"), y2="upper:Q", color=encoded["color"]
    )
    line = base.mark_line(strokeWidth=2).encode(x=x, y=alt.Y("gain:Q", title="target's gain, nats a token"), **encoded)
    panel = alt.layer(band, line).properties(width=WIDTH, height=HEIGHT)
    return panel.facet(alt.Facet("panel:N", title=None, sort=None), columns=2)


FIGURES = {"rise": chart}
