"""The vocabulary that languages share, and whether routing follows it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tests.reference.metrics.distributions import divergence, jsd
from tests.reference.metrics.permutations import language_orders, two_sided_p
from tests.reference.metrics.totals import of_any_languages, of_any_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reference.metrics.totals import Routing, Row


@of_any_languages
def vocabulary_overlap(data: Routing) -> list[Row]:
    rows = []
    for lang_a, lang_b in combinations(data.languages, 2):
        a, b = (
            Counter(token_id for text in data.texts[lang] for token_id in text.token_ids.tolist())
            for lang in (lang_a, lang_b)
        )
        common = sum(min(a[token_id] / a.total(), b[token_id] / b.total()) for token_id in a)
        types = len(a.keys() & b.keys()) / len(a.keys() | b.keys())
        rows.append({"lang_a": lang_a, "lang_b": lang_b, "type_jaccard": types, "token_overlap": common})
    return rows


@of_any_languages
@of_any_layers
def divergence_vs_vocabulary(data: Routing, permutations: int = 999, seed: int = 0) -> list[Row]:
    overlaps = vocabulary_overlap(data)
    if not overlaps:
        return []
    languages, divergences = data.languages, divergence(data)
    a, b = np.triu_indices(len(languages), 1)
    orders = language_orders(languages, permutations, seed)
    rows = []
    for layer in data.layers:
        raw, normalized = (
            _square(languages, [row for row in divergences if row["layer"] == layer], column)[a, b]
            for column in ("jsd", "jsd_normalized")
        )
        found: Row = {"layer": layer, "pairs": len(a)}
        for kind, column in (("type", "type_jaccard"), ("token", "token_overlap")):
            square = _square(languages, overlaps, column)
            found[f"r_{kind}"] = r = _pearson(raw, square[a, b])
            found[f"r_{kind}_normalized"] = _pearson(normalized, square[a, b])
            permuted = [_pearson(raw, square[order[a], order[b]]) for order in orders]
            found[f"p_{kind}"] = None if r is None else two_sided_p(r, np.array(permuted))
        rows.append(found)
    return rows


@of_any_languages
@of_any_layers
def divergence_vocabulary_controlled(data: Routing) -> list[Row]:
    frequency = {}
    for lang in data.languages:
        counted = Counter(token_id for text in data.texts[lang] for token_id in text.token_ids.tolist())
        frequency[lang] = {token_id: number / counted.total() for token_id, number in counted.items()}
    rows = []
    for row in divergence(data):
        index = data.indexes[data.layers.index(row["layer"])]
        pair = row["lang_a"], row["lang_b"]
        weight = {v: min(f, frequency[pair[1]][v]) for v, f in frequency[pair[0]].items() if v in frequency[pair[1]]}
        shares = []
        for lang in pair:
            by_id: dict[int, np.ndarray] = {v: np.zeros(data.num_experts) for v in weight}
            for text in data.texts[lang]:
                for v, experts in zip(text.token_ids.tolist(), text.experts[:, index], strict=True):
                    if v in by_id:
                        by_id[v][experts] += 1
            shares.append(sum((weight[v] * n / n.sum() for v, n in by_id.items()), np.zeros(data.num_experts)))
        share = sum(weight.values())
        rows.append(
            {
                **{key: row[key] for key in ("layer", "lang_a", "lang_b", "jsd")},
                "jsd_controlled": jsd(shares[0] / share, shares[1] / share) if weight else None,
                "token_share": share,
            }
        )
    return rows


def _square(languages: Sequence[str], pairs: Sequence[Row], column: str) -> np.ndarray:
    """Return a column of pairs as [languages, languages], symmetric."""
    square = np.zeros((len(languages), len(languages)))
    for row in pairs:
        a, b = languages.index(row["lang_a"]), languages.index(row["lang_b"])
        square[a, b] = square[b, a] = row[column]
    return square


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    varies = len(x) > 2 and np.std(x) > 1e-12 and np.std(y) > 1e-12
    return float(np.corrcoef(x, y)[0, 1]) if varies else None
