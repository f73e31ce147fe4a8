"""What needs single texts or tokens, where roll-ups are not enough."""

from __future__ import annotations

from hashlib import md5
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tests.reference.metrics.distributions import jsd_normalized
from tests.reference.metrics.totals import of_any_languages, of_any_layers, of_languages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.reference.metrics.totals import Routing, Row


def derangements_of(pivot_tokens: Mapping[str, int], number: int) -> list[dict[str, str]]:
    """Return, for each of `number` derangements, which text each text is paired with the translation of.

    `pivot_tokens` are the tokens in the pivot language of each text id that is shared with it. A derangement lacks the
    texts of blocks that have no further one.
    """
    ordered = sorted(
        pivot_tokens, key=lambda text: (pivot_tokens[text], md5(text.encode(), usedforsecurity=False).hexdigest(), text)
    )
    blocks: dict[int, list[str]] = {}
    number_of_blocks = max(1, len(ordered) // 8)
    for rank, text in enumerate(ordered):
        blocks.setdefault(rank * number_of_blocks // len(ordered), []).append(text)
    return [
        {
            text: block[(place + shift) % len(block)]
            for block in blocks.values()
            if shift < len(block)
            for place, text in enumerate(block)
        }
        for shift in range(1, number + 1)
    ]


@of_any_layers
def pivot_similarity(
    data: Routing,
    pivot_lang: str | None = None,
    languages: Sequence[str] | None = None,
    derangements: int = 3,
) -> list[Row]:
    pivot = pivot_lang or data.pivot
    rows = []
    for lang in of_languages(data, languages).languages:
        own, others = data.profiles[lang], data.profiles.get(pivot, {})
        shared = sorted(set(own) & set(others))
        if lang == pivot or not shared:
            continue
        tokens = {text.text_id: len(text.token_ids) for text in data.texts[pivot] if text.text_id in shared}
        partners: dict[str, list[str]] = {text: [] for text in shared}
        for derangement in derangements_of(tokens, derangements):
            for text, other in derangement.items():
                partners[text].append(other)
        for index, layer in enumerate(data.layers):
            similarity = {
                (text, other): 1 - jsd_normalized(own[text][index], others[other][index])
                for text in shared
                for other in (text, *partners[text])
            }
            mean = float(np.mean([similarity[text, text] for text in shared]))
            mispaired = None
            if all(partners.values()):
                of_texts = [np.mean([similarity[text, other] for other in partners[text]]) for text in shared]
                mispaired = float(np.mean(of_texts))
            rows.append(
                {
                    "lang": lang,
                    "layer": layer,
                    "pairs": len(shared),
                    "divergence": 1 - mean,
                    "similarity": mean,
                    "mispaired": mispaired,
                    "excess": None if mispaired is None else mean - mispaired,
                }
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
