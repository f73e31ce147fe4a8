"""Two runs compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.reference.metrics.texts import text_frequency
from tests.reference.metrics.totals import of_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reference.metrics.totals import Routing, Row


def task_experts(
    runs: Sequence[Routing], tau: float = 0, lang: str | None = None, layers: Sequence[int] | None = None
) -> list[Row]:
    """Every pair of runs of as many experts; unlike the other metrics, of several runs."""
    cut = [of_layers(run, layers) for run in runs]
    rows = []
    for a in cut:
        for b in cut:
            if a.run == b.run or a.num_experts != b.num_experts or (lang and lang not in {*a.count} & {*b.count}):
                continue
            of_a, of_b = text_frequency(a, lang), text_frequency(b, lang)
            for index, layer, expert in a.cells():
                if layer in b.layers:
                    score = of_a[index, expert] - of_b[b.layers.index(layer), expert]
                    named = {"run_a": a.run, "run_b": b.run, "layer": layer, "expert": expert}
                    rows.append({**named, "score": score, "selected": bool(score > tau)})
    return rows
