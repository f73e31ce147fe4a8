"""Scores of your own for each language, and whether they go with routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from tests.reference.metrics.texts import pivot_similarity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.reference.metrics.totals import Routing, Row


def score_correlation(
    data: Routing, scores: Mapping[str, float], pivot_lang: str | None = None, layers: Sequence[int] | None = None
) -> list[Row]:
    rows = []
    for layer in data.layers:
        pairs = [
            (row["similarity"], scores[row["lang"]])
            for row in pivot_similarity(data, pivot_lang=pivot_lang, layers=layers)
            if row["layer"] == layer and row["lang"] in scores
        ]
        if not pairs:
            continue
        similarity, score = (np.array(side) for side in zip(*pairs, strict=True))
        pearson = pearson_p = spearman = spearman_p = None
        if len(pairs) > 2 and similarity.std() > 1e-12 and score.std() > 1e-12:
            pearson, pearson_p = stats.pearsonr(similarity, score)
            spearman, spearman_p = stats.spearmanr(similarity.round(12), score)
        rows.append(
            {
                "layer": layer,
                "n": len(pairs),
                "pearson": pearson,
                "pearson_p": pearson_p,
                "spearman": spearman,
                "spearman_p": spearman_p,
            }
        )
    return rows
