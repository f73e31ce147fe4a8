"""What needs single texts or tokens, where roll-ups are not enough."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tests.reference.metrics.distributions import jsd_normalized
from tests.reference.metrics.totals import of_any_languages, of_any_layers, of_languages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reference.metrics.totals import Routing, Row


@of_any_layers
def pivot_similarity(data: Routing, pivot_lang: str | None = None, languages: Sequence[str] | None = None) -> list[Row]:
    pivot = pivot_lang or data.pivot
    rows = []
    for lang in of_languages(data, languages).languages:
        shared = sorted(set(data.profiles[lang]) & set(data.profiles.get(pivot, {})))
        if lang == pivot or not shared:
            continue
        for index, layer in enumerate(data.layers):
            of_pairs = [
                jsd_normalized(data.profiles[lang][text][index], data.profiles[pivot][text][index]) for text in shared
            ]
            mean = float(np.mean(of_pairs))
            rows.append(
                {"lang": lang, "layer": layer, "pairs": len(shared), "divergence": mean, "similarity": 1 - mean}
            )
    return rows


@of_any_languages
@of_any_layers
def routing_consistency(data: Routing) -> list[Row]:
    rows = []
    for lang in data.languages:
        for index, layer in zip(data.indexes, data.layers, strict=True):
            of_pairs = []
            for text in data.texts[lang]:
                sets = [set(experts.tolist()) for experts in text.experts[:, index]]
                of_pairs += [len(a & b) / len(a | b) for a, b in pairwise(sets)]
            if of_pairs:
                rows.append({"lang": lang, "layer": layer, "consistency": float(np.mean(of_pairs))})
    return rows


def text_frequency(data: Routing, lang: str | None) -> np.ndarray:
    """Mean over texts of count / tokens, [layers, experts]."""
    of_texts = []
    for name in data.languages if lang is None else [lang]:
        for text in data.texts[name]:
            count = np.zeros((len(data.layers), data.num_experts))
            for place, index in enumerate(data.indexes):
                count[place] = np.bincount(text.experts[:, index].ravel(), minlength=data.num_experts)
            of_texts.append(count / len(text.token_ids))
    return np.mean(of_texts, axis=0)
