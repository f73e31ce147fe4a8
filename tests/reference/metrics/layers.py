"""Whole layers: their zones, and how much they tell languages apart."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from tests.reference.metrics.distributions import divergence
from tests.reference.metrics.totals import of_any_languages, of_any_layers

if TYPE_CHECKING:
    from tests.reference.metrics.totals import Routing, Row


def zones(data: Routing) -> list[Row]:
    # Python's round() rounds halves to even.
    middle, deep = round(0.375 * len(data.layers)), round(0.625 * len(data.layers))
    names = ["shallow"] * middle + ["middle"] * (deep - middle) + ["deep"] * (len(data.layers) - deep)
    return [{"layer": layer, "ordinal": ordinal, "zone": names[ordinal]} for ordinal, layer in enumerate(data.layers)]


@of_any_languages
def zones_auto(data: Routing) -> list[Row]:
    rows = divergence(data)
    if not rows:
        return []
    curve = [np.mean([row["jsd_normalized"] for row in rows if row["layer"] == layer]) for layer in data.layers]
    number = len(curve)
    squares = {
        (middle, deep): sum(float(np.sum((part - np.mean(part)) ** 2)) for part in np.split(curve, [middle, deep]))
        for middle, deep in combinations(range(1, number), 2)
    }
    least = min(squares.values(), default=0.0)
    middle, deep = min((cut for cut, value in squares.items() if value < least + 1e-12), default=(1, 2))
    names = ["shallow"] * middle + ["middle"] * (deep - middle) + ["deep"] * number
    return [{"layer": layer, "ordinal": ordinal, "zone": names[ordinal]} for ordinal, layer in enumerate(data.layers)]


def _balanced(data: Routing, index: int) -> float | None:
    """Return the mutual information of language and expert, every language as likely, over the entropy of languages."""
    shares = np.stack([data.share(lang)[index] for lang in data.languages])
    if len(shares) == 1:
        return None
    given_language = float(entr(shares).sum(axis=1).mean())
    return (float(entr(shares.mean(axis=0)).sum()) - given_language) / math.log(len(shares))


@of_any_languages
@of_any_layers
def language_specialization(data: Routing) -> list[Row]:
    rows = []
    for index, layer in enumerate(data.layers):
        table = np.stack([data.count[lang][index] for lang in data.languages])  # [languages, experts]
        joint = table / table.sum()
        of_language, of_expert = joint.sum(axis=1), joint.sum(axis=0)
        entropy = float(entr(of_language).sum())
        # H(L|E) = H(L, E) - H(E)
        given_expert = float(entr(joint).sum() - entr(of_expert).sum())
        value = (entropy - given_expert) / entropy if len(table) > 1 else None
        rows.append({"layer": layer, "specialization": value, "balanced": _balanced(data, index)})
    return rows
