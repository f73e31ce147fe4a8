"""How each language spreads its tokens over the experts of a layer, and how far two languages differ in it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from tests.reference.metrics.totals import of_any_languages, of_any_layers

if TYPE_CHECKING:
    from tests.reference.metrics.totals import Routing, Row


def jsd(p: np.ndarray, q: np.ndarray) -> float:
    return max(float(entr((p + q) / 2).sum() - (entr(p).sum() + entr(q).sum()) / 2), 0.0)


def jsd_normalized(p: np.ndarray, q: np.ndarray) -> float:
    room = math.log(len(p)) - float(entr(p).sum() + entr(q).sum()) / 2
    return 0.0 if room < 1e-8 else jsd(p, q) / room


@of_any_languages
@of_any_layers
def activation(data: Routing) -> list[Row]:
    rows = []
    for lang in data.languages:
        for index, layer, expert in data.cells():
            count, weight = data.count[lang][index, expert], data.weight_sum[lang][index, expert]
            rows.append(
                {
                    "lang": lang,
                    "layer": layer,
                    "expert": expert,
                    "frequency": count / data.tokens[lang],
                    "share": data.share(lang)[index, expert],
                    "weight_mean": weight / count if count else None,
                    "weight_share": weight / data.weight_sum[lang][index].sum(),
                    "probability": data.probability[lang][index, expert],
                }
            )
    return rows


def _relative(variance: np.ndarray, share: np.ndarray) -> float:
    """Return sum V(p) / p over the experts that are used."""
    return float((variance[share > 0] / share[share > 0]).sum())


def _corrected(data: Routing, index: int, lang_a: str, lang_b: str) -> Row:
    """Return jsd_corrected and noise from the formula of the bias, expert by expert."""
    variances, shares = [data.variance(lang) for lang in (lang_a, lang_b)], [data.share(lang_a), data.share(lang_b)]
    if None in [None if variance is None else 0 for variance in variances]:
        return {"jsd_corrected": None, "noise": None}
    p, q = (share[index] for share in shares)
    bias, noise, middle = 0.0, 0.0, (p + q) / 2
    for variance, share in zip(variances, (p, q), strict=True):
        assert variance is not None
        used = share > 0
        value, x, m = variance[index][used], share[used], middle[used]
        bias += float((value * (1 / (2 * x) - 1 / (4 * m))).sum()) / 2
        noise += float((value * (1 / (2 * x) - 1 / (4 * x))).sum()) / 2
    return {"jsd_corrected": jsd(p, q) - bias, "noise": noise}


@of_any_languages
@of_any_layers
def routing_entropy(data: Routing) -> list[Row]:
    highest = math.log(data.num_experts)
    rows = []
    for lang in data.languages:
        variance = data.variance(lang)
        for index, layer in enumerate(data.layers):
            entropy = float(entr(data.share(lang)[index]).sum())
            probability_entropy = float(entr(data.probability[lang][index]).sum())
            rows.append(
                {
                    "lang": lang,
                    "layer": layer,
                    "entropy": entropy,
                    "entropy_normalized": entropy / highest,
                    "entropy_corrected": None
                    if variance is None
                    else entropy + _relative(variance[index], data.share(lang)[index]) / 2,
                    "probability_entropy": probability_entropy,
                    "probability_entropy_normalized": probability_entropy / highest,
                }
            )
    return rows


@of_any_languages
@of_any_layers
def divergence(data: Routing) -> list[Row]:
    rows = []
    for index, layer, lang_a, lang_b in data.pairs():
        p, q = data.share(lang_a)[index], data.share(lang_b)[index]
        probability_p, probability_q = data.probability[lang_a][index], data.probability[lang_b][index]
        rows.append(
            {
                "layer": layer,
                "lang_a": lang_a,
                "lang_b": lang_b,
                "jsd": jsd(p, q),
                "jsd_normalized": jsd_normalized(p, q),
                **_corrected(data, index, lang_a, lang_b),
                "probability_jsd": jsd(probability_p, probability_q),
                "probability_jsd_normalized": jsd_normalized(probability_p, probability_q),
            }
        )
    return rows


@of_any_languages
@of_any_layers
def divergence_by_layer(data: Routing) -> list[Row]:
    rows, columns = divergence(data), ("jsd", "jsd_normalized", "probability_jsd", "probability_jsd_normalized")
    columns_of_texts = ("jsd_corrected", "noise")
    found = []
    for layer in data.layers:
        pairs = [row for row in rows if row["layer"] == layer]
        if pairs:
            means: Row = {name: float(np.mean([row[name] for row in pairs])) for name in columns}
            for name in columns_of_texts:
                values = [row[name] for row in pairs]
                means[name] = None if None in values else float(np.mean(values))
            found.append({"layer": layer, "pairs": len(pairs), **means})
    return found
