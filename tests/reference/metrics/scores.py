"""Scores of your own for each language, and whether they go with routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from tests.reference.metrics.permutations import language_orders, two_sided_p
from tests.reference.metrics.texts import pivot_similarity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.reference.metrics.totals import Routing, Row


def score_correlation(
    data: Routing,
    scores: Mapping[str, float],
    pivot_lang: str | None = None,
    layers: Sequence[int] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> list[Row]:
    found = pivot_similarity(data, pivot_lang=pivot_lang, layers=layers, derangements=0)
    languages = sorted({row["lang"] for row in found} & scores.keys())
    if not languages:
        return []
    similarity = {
        layer: np.array(
            [row["similarity"] for lang in languages for row in found if (row["lang"], row["layer"]) == (lang, layer)]
        )
        for layer in sorted({row["layer"] for row in found})
    }
    return correlations(languages, similarity, np.array([scores[lang] for lang in languages]), permutations, seed)


def correlations(
    languages: Sequence[str], similarity: Mapping[int, np.ndarray], score: np.ndarray, permutations: int, seed: int
) -> list[Row]:
    """Correlate similarities of each layer with scores, both in the order of the sorted languages."""
    rows: dict[int, Row] = {layer: {"layer": layer, "n": len(languages)} for layer in similarity}
    permuted = score[language_orders(languages, permutations, seed)]
    for name, sides in {
        "pearson": (similarity, score, permuted),
        "spearman": (
            {layer: stats.rankdata(values.round(12)) for layer, values in similarity.items()},
            stats.rankdata(score),
            stats.rankdata(permuted, axis=1) if len(permuted) else permuted,
        ),
    }.items():
        values, given, shuffled = sides
        r, r_permuted = {}, {}
        for layer, of_layer in values.items():
            if len(languages) > 2 and similarity[layer].std() > 1e-12 and score.std() > 1e-12 and of_layer.std() > 0:
                r[layer] = float(np.corrcoef(of_layer, given)[0, 1])
                r_permuted[layer] = np.array([np.corrcoef(of_layer, other)[0, 1] for other in shuffled])
        largest = np.max(np.abs([*r_permuted.values()]), axis=0) if r_permuted else None
        for layer, row in rows.items():
            known = layer in r
            row[name] = r.get(layer)
            row[f"{name}_p"] = two_sided_p(r[layer], r_permuted[layer]) if known else None
            row[f"{name}_p_layers"] = two_sided_p(r[layer], largest) if known and largest is not None else None
    return list(rows.values())
