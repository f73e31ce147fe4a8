"""The experts that each language uses most, and how much the sets of two languages overlap."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import comb, fsum
from typing import TYPE_CHECKING

import numpy as np

from tests.reference.metrics.totals import of_any_languages, of_any_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reference.metrics.totals import Routing, Row


def top_experts(data: Routing, lang: str, index: int, n: int) -> list[int]:
    count = data.count[lang][index]
    return sorted(range(data.num_experts), key=lambda expert: (-count[expert], expert))[:n]


@cache
def expected_jaccard(size: int, pool: int) -> float:
    """Return the mean Jaccard of two random sets; quotients of whole numbers are rounded once."""
    ways = comb(pool, size)
    return fsum(s / (2 * size - s) * (comb(size, s) * comb(pool - size, size - s) / ways) for s in range(1, size + 1))


@of_any_languages
@of_any_layers
def expert_sets(data: Routing, n: int | None = None) -> list[Row]:
    size = min(n or data.top_k, data.num_experts)
    return [
        {
            "lang": lang,
            "layer": layer,
            "n": size,
            "rank": rank,
            "expert": expert,
            "frequency": data.frequency(lang)[index, expert],
        }
        for lang in data.languages
        for index, layer in enumerate(data.layers)
        for rank, expert in enumerate(top_experts(data, lang, index, size))
    ]


@of_any_languages
@of_any_layers
def jaccard(data: Routing, n: int | None = None) -> list[Row]:
    size = min(n or data.top_k, data.num_experts)
    rows = []
    for index, layer, lang_a, lang_b in data.pairs():
        a, b = (set(top_experts(data, lang, index, size)) for lang in (lang_a, lang_b))
        value = len(a & b) / len(a | b)
        rows.append(
            {
                "layer": layer,
                "lang_a": lang_a,
                "lang_b": lang_b,
                "n": size,
                "jaccard": value,
                "isolation": 1 - value,
                "expected": expected_jaccard(size, data.num_experts),
            }
        )
    return rows


def _mean_jaccard(rows: list[Row], keys: Sequence[str], number: str) -> list[Row]:
    means = []
    for key in sorted({tuple(row[name] for name in keys) for row in rows}):
        members = [row for row in rows if tuple(row[name] for name in keys) == key]
        value = float(np.mean([row["jaccard"] for row in members]))
        named = dict(zip(keys, key, strict=True))
        means.append(
            {**named, "n": members[0]["n"], number: len(members), "jaccard": value, "isolation": 1 - value},
        )
    return means


@of_any_languages
@of_any_layers
def jaccard_by_layer(data: Routing, n: int | None = None) -> list[Row]:
    return _mean_jaccard(jaccard(data, n=n), ["layer"], "pairs")


@of_any_languages
@of_any_layers
def jaccard_by_pair(data: Routing, n: int | None = None) -> list[Row]:
    return _mean_jaccard(jaccard(data, n=n), ["lang_a", "lang_b"], "layers")


@of_any_languages
@of_any_layers
def jaccard_by_language(data: Routing, n: int | None = None) -> list[Row]:
    rows = [{**row, "lang": row[side]} for row in jaccard(data, n=n) for side in ("lang_a", "lang_b")]
    return _mean_jaccard(rows, ["lang"], "pairs")


@of_any_languages
@of_any_layers
def jaccard_curve(data: Routing) -> list[Row]:
    rows = []
    size = data.num_experts
    for index, layer in enumerate(data.layers):
        ranks = [np.argsort(top_experts(data, lang, index, size)) for lang in data.languages]
        larger = [np.maximum(a, b) for a, b in combinations(ranks, 2)]
        for n in range(1, size + 1) if larger else ():
            shared = np.array([(rank < n).sum() for rank in larger])
            value, expected = float(np.mean(shared / (2 * n - shared))), expected_jaccard(n, size)
            rows.append(
                {
                    "layer": layer,
                    "n": n,
                    "pairs": len(larger),
                    "jaccard": value,
                    "expected": expected,
                    "corrected": (value - expected) / (1 - expected) if n < size else None,
                }
            )
    return rows
