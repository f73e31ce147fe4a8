"""Two runs compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.reference.metrics.texts import text_frequency
from tests.reference.metrics.totals import of_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reference.metrics.totals import Routing, Row
    from tests.support.stores import World


def route_agreement(
    one: World, other: World, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> list[Row]:
    """Token by token and layer by layer, as the definition says."""
    rows: list[Row] = []
    shared_layers = [layer for layer in one.record.moe_layers if layer in other.record.moe_layers]
    for lang in languages or sorted({*one.texts} & {*other.texts}):
        there = {text.text_id: text for text in other.texts[lang]}
        pairs = [(text, there[text.text_id]) for text in one.texts[lang] if text.text_id in there]
        places = [(a, b, at) for a, b in pairs for at in range(min(len(a.token_ids), len(b.token_ids)))]
        same = [(a, b, at) for a, b, at in places if a.token_ids[at] == b.token_ids[at]]
        if not places:
            continue
        for layer in layers or shared_layers:
            in_one, in_other = one.record.moe_layers.index(layer), other.record.moe_layers.index(layer)
            equal, overlap, errors = 0, 0.0, []
            for a, b, at in same:
                of_a = dict(zip(a.experts[at, in_one].tolist(), a.weights[at, in_one].tolist(), strict=True))
                of_b = dict(zip(b.experts[at, in_other].tolist(), b.weights[at, in_other].tolist(), strict=True))
                both = of_a.keys() & of_b.keys()
                equal += of_a.keys() == of_b.keys()
                overlap += len(both) / one.record.top_k
                errors += [abs(of_a[expert] - of_b[expert]) for expert in both]
            rows.append(
                {
                    "run_a": one.record.run,
                    "run_b": other.record.run,
                    "lang": lang,
                    "layer": layer,
                    "tokens": len(same),
                    "other_tokens": len(places) - len(same),
                    "equal_sets": equal / len(same) if same else None,
                    "overlap": overlap / len(same) if same else None,
                    "weight_error": sum(errors) / len(errors) if errors else None,
                    "largest_weight_error": max(errors, default=None),
                }
            )
    return rows


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
