"""Every metric a second time, in NumPy and SciPy, from the formulas and the raw routing: never from the SQL.

A metric is a list of rows, one dict each, in any order, with the columns of the view of the same name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import entr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.stores import World

Row = dict[str, Any]


@dataclass(frozen=True)
class Routing:
    """What metrics are made of: arrays are [layers, experts] for each language; profiles are by text id."""

    run: str
    layers: Sequence[int]
    top_k: int
    pivot: str
    tokens: Mapping[str, int]
    count: Mapping[str, np.ndarray]
    weight_sum: Mapping[str, np.ndarray]
    probability: Mapping[str, np.ndarray]
    profiles: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def languages(self) -> list[str]:
        return sorted(self.count)

    @property
    def num_experts(self) -> int:
        return next(iter(self.count.values())).shape[1]

    def frequency(self, lang: str) -> np.ndarray:
        return self.count[lang] / self.tokens[lang]

    def share(self, lang: str) -> np.ndarray:
        return self.frequency(lang) / self.top_k

    def cells(self) -> Iterator[tuple[int, int, int]]:
        for index, layer in enumerate(self.layers):
            for expert in range(self.num_experts):
                yield index, layer, expert

    def pairs(self) -> Iterator[tuple[int, int, str, str]]:
        for index, layer in enumerate(self.layers):
            for lang_a, lang_b in combinations(self.languages, 2):
                yield index, layer, lang_a, lang_b


def routing(world: World) -> Routing:
    """Add up a world's texts, token by token."""
    record = world.record
    shape = (len(record.moe_layers), record.num_experts)
    tokens: dict[str, int] = {}
    count = {lang: np.zeros(shape) for lang in world.texts}
    weight_sum = {lang: np.zeros(shape) for lang in world.texts}
    probability = {lang: np.zeros(shape) for lang in world.texts}
    for lang, texts in world.texts.items():
        tokens[lang] = sum(len(text.token_ids) for text in texts)
        for text in texts:
            probability[lang] += len(text.token_ids) * text.profile.astype(np.float64)
            for token in range(len(text.token_ids)):
                for index in range(shape[0]):
                    chosen = text.experts[token, index]
                    count[lang][index, chosen] += 1
                    weight_sum[lang][index, chosen] += text.weights[token, index].astype(np.float64)
        probability[lang] /= tokens[lang]
    return Routing(
        run=record.run,
        layers=record.moe_layers,
        top_k=record.top_k,
        pivot=record.corpus["pivot"],
        tokens=tokens,
        count=count,
        weight_sum=weight_sum,
        probability=probability,
        profiles={
            lang: {text.text_id: text.profile.astype(np.float64) for text in texts}
            for lang, texts in world.texts.items()
        },
    )


def jsd(p: np.ndarray, q: np.ndarray) -> float:
    return max(float(entr((p + q) / 2).sum() - (entr(p).sum() + entr(q).sum()) / 2), 0.0)


def jsd_normalized(p: np.ndarray, q: np.ndarray) -> float:
    room = math.log(len(p)) - float(entr(p).sum() + entr(q).sum()) / 2
    return 0.0 if room < 1e-8 else jsd(p, q) / room


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
                    "share": count / data.tokens[lang] / data.top_k,
                    "weight_mean": weight / count if count else None,
                    "weight_share": weight / data.weight_sum[lang][index].sum(),
                    "probability": data.probability[lang][index, expert],
                }
            )
    return rows


def top_experts(data: Routing, lang: str, index: int, n: int) -> list[int]:
    count = data.count[lang][index]
    return sorted(range(data.num_experts), key=lambda expert: (-count[expert], expert))[:n]


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


def jaccard_by_layer(data: Routing, n: int | None = None) -> list[Row]:
    return _mean_jaccard(jaccard(data, n), ["layer"], "pairs")


def jaccard_by_pair(data: Routing, n: int | None = None) -> list[Row]:
    return _mean_jaccard(jaccard(data, n), ["lang_a", "lang_b"], "layers")


def jaccard_by_language(data: Routing, n: int | None = None) -> list[Row]:
    rows = [{**row, "lang": row[side]} for row in jaccard(data, n) for side in ("lang_a", "lang_b")]
    return _mean_jaccard(rows, ["lang"], "pairs")


def routing_entropy(data: Routing) -> list[Row]:
    highest = math.log(data.num_experts)
    rows = []
    for lang in data.languages:
        for index, layer in enumerate(data.layers):
            entropy = float(entr(data.share(lang)[index]).sum())
            probability_entropy = float(entr(data.probability[lang][index]).sum())
            rows.append(
                {
                    "lang": lang,
                    "layer": layer,
                    "entropy": entropy,
                    "entropy_normalized": entropy / highest,
                    "probability_entropy": probability_entropy,
                    "probability_entropy_normalized": probability_entropy / highest,
                }
            )
    return rows


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
                "probability_jsd": jsd(probability_p, probability_q),
                "probability_jsd_normalized": jsd_normalized(probability_p, probability_q),
            }
        )
    return rows


def pivot_similarity(data: Routing, pivot_lang: str | None = None) -> list[Row]:
    pivot = pivot_lang or data.pivot
    rows = []
    for lang in data.languages:
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


def specificity(data: Routing, alpha: float = 10, languages: Sequence[str] | None = None) -> list[Row]:
    mean = np.mean([data.frequency(lang) for lang in languages or data.languages], axis=0)
    rows = []
    for lang in data.languages:
        a = data.frequency(lang)
        s = a / np.where(mean > 0, mean, 1e-8)
        rows += [
            {
                "lang": lang,
                "layer": layer,
                "expert": expert,
                "specificity": s[index, expert],
                "score": s[index, expert] * (1 + alpha * a[index, expert]),
            }
            for index, layer, expert in data.cells()
        ]
    return rows


def overlap(data: Routing, alpha: float = 10, languages: Sequence[str] | None = None) -> list[Row]:
    stacked = np.stack([data.frequency(lang) for lang in languages or data.languages])
    mean, deviation = stacked.mean(axis=0), stacked.std(axis=0)
    rows = []
    for index, layer, expert in data.cells():
        used = mean[index, expert] > 0
        cv = deviation[index, expert] / mean[index, expert] if used else None
        o = 1 / (1 + cv) if used else 0.0
        score = o * (1 + alpha * mean[index, expert])
        rows.append({"layer": layer, "expert": expert, "cv": cv, "overlap": o, "score": score})
    return rows


def zones(data: Routing) -> list[Row]:
    # Python's round() rounds halves to even.
    middle, deep = round(0.375 * len(data.layers)), round(0.625 * len(data.layers))
    names = ["shallow"] * middle + ["middle"] * (deep - middle) + ["deep"] * (len(data.layers) - deep)
    return [{"layer": layer, "ordinal": ordinal, "zone": names[ordinal]} for ordinal, layer in enumerate(data.layers)]


METRICS: dict[str, Callable[..., list[Row]]] = {
    metric.__name__: metric
    for metric in (
        activation,
        expert_sets,
        jaccard,
        jaccard_by_layer,
        jaccard_by_language,
        jaccard_by_pair,
        routing_entropy,
        divergence,
        pivot_similarity,
        specificity,
        overlap,
        zones,
    )
}


def rise(data: Routing, target: str, budget: int, alpha: float = 10) -> list[tuple[int, int, str]]:
    """RISE's algorithm 1 as (layer, expert, zone), best first within each zone."""
    specific = {
        (row["layer"], row["expert"]): row["score"] for row in specificity(data, alpha) if row["lang"] == target
    }
    shared = {(row["layer"], row["expert"]): row["score"] for row in overlap(data, alpha)}
    zone_of = {row["layer"]: row["zone"] for row in zones(data)}
    pools = {
        zone: sorted(
            (cell for cell in specific if zone_of[cell[0]] == zone),
            key=lambda cell, scores=scores: (-round(scores[cell], 10), cell),
        )
        for zone, scores in (("shallow", specific), ("middle", shared), ("deep", specific))
    }
    wanted = {"shallow": budget * 35 // 100, "middle": budget * 25 // 100}
    wanted["deep"] = budget - sum(wanted.values())
    taken = {zone: min(wanted[zone], len(pools[zone])) for zone in pools}
    while sum(taken.values()) < budget:
        room = {zone: len(pool) - taken[zone] for zone, pool in pools.items()}
        widest = max(room, key=room.__getitem__)
        taken[widest] += min(room[widest], budget - sum(taken.values()))
    return [(*cell, zone) for zone, pool in pools.items() for cell in pool[: taken[zone]]]
