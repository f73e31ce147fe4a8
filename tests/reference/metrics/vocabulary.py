"""The vocabulary that languages share, and whether routing follows it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tests.reference.metrics.distributions import divergence
from tests.reference.metrics.totals import of_any_languages, of_any_layers

if TYPE_CHECKING:
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
def divergence_vs_vocabulary(data: Routing) -> list[Row]:
    vocabulary = {(row["lang_a"], row["lang_b"]): row for row in vocabulary_overlap(data)}
    divergences = divergence(data)
    rows = []
    for layer in data.layers if vocabulary else []:
        y = [row["jsd_normalized"] for row in divergences if row["layer"] == layer]
        found: Row = {"layer": layer, "pairs": len(y)}
        for column, of in (("r_type", "type_jaccard"), ("r_token", "token_overlap")):
            x = [vocabulary[row["lang_a"], row["lang_b"]][of] for row in divergences if row["layer"] == layer]
            varies = len(y) > 2 and np.std(x) > 1e-12 and np.std(y) > 1e-12
            found[column] = float(np.corrcoef(x, y)[0, 1]) if varies else None
        rows.append(found)
    return rows
