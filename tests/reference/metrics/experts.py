"""Single experts: which languages use them, and how evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.reference.metrics.totals import of_any_languages, of_any_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reference.metrics.totals import Routing, Row


@of_any_layers
def specificity(
    data: Routing, alpha: float = 10, shrinkage: float = 0, languages: Sequence[str] | None = None
) -> list[Row]:
    mean = np.mean([data.frequency(lang) for lang in data.languages if languages is None or lang in languages], axis=0)
    rows = []
    for lang in data.languages:
        a = data.frequency(lang)
        expected = data.tokens[lang] * np.where((mean > 0) | (shrinkage > 0), mean, 1e-8)
        s = (data.count[lang] + shrinkage) / (expected + shrinkage)
        rows += [
            {
                "lang": lang,
                "layer": layer,
                "expert": expert,
                "count": data.count[lang][index, expert],
                "specificity": s[index, expert],
                "score": s[index, expert] * (1 + alpha * a[index, expert]),
            }
            for index, layer, expert in data.cells()
        ]
    return rows


@of_any_layers
def overlap(data: Routing, alpha: float = 10, languages: Sequence[str] | None = None) -> list[Row]:
    compared = [lang for lang in data.languages if languages is None or lang in languages]
    if not compared:
        return []
    stacked = np.stack([data.frequency(lang) for lang in compared])
    count = np.sum([data.count[lang] for lang in compared], axis=0)
    mean, deviation = stacked.mean(axis=0), stacked.std(axis=0)
    rows = []
    for index, layer, expert in data.cells():
        used = mean[index, expert] > 0
        cv = deviation[index, expert] / mean[index, expert] if used else None
        o = 1 / (1 + cv) if used else 0.0
        score = o * (1 + alpha * mean[index, expert])
        named = {"layer": layer, "expert": expert, "count": count[index, expert]}
        rows.append({**named, "cv": cv, "overlap": o, "score": score})
    return rows


@of_any_languages
@of_any_layers
def activation_gap(data: Routing) -> list[Row]:
    rows = []
    for index, layer, expert in data.cells():
        share = {lang: data.share(lang)[index, expert] for lang in data.languages}
        first, *others = sorted(share, key=lambda lang: -share[lang])
        gap = share[first] - share[others[0]] if others else None
        named = {"lang": first, "count": data.count[first][index, expert]} if gap else {"lang": None, "count": None}
        rows.append({"layer": layer, "expert": expert, **named, "gap": gap})
    return rows


@of_any_languages
@of_any_layers
def exclusive_experts(data: Routing, threshold: float = 0.5) -> list[Row]:
    stacked = np.stack([data.share(lang) for lang in data.languages])
    total = stacked.sum(axis=0)
    rows = []
    for number, lang in enumerate(data.languages):
        for index, layer, expert in data.cells():
            share = stacked[number, index, expert]
            if total[index, expert] > 0 and share / total[index, expert] >= threshold - 1e-12:
                language_share = share / total[index, expert]
                named = {"lang": lang, "layer": layer, "expert": expert, "count": data.count[lang][index, expert]}
                rows.append({**named, "share": share, "language_share": language_share})
    return rows
