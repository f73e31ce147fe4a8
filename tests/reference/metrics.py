"""Every metric a second time, in NumPy and SciPy, from the formulas and the raw routing: never from the SQL.

A metric is a list of rows, one dict each, in any order, with the columns of the view of the same name.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import wraps
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats
from scipy.special import entr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.stores import Text, World

Row = dict[str, Any]


@dataclass(frozen=True)
class Routing:
    """What metrics are made of: arrays are [layers, experts] for each language; profiles are by text id.

    `indexes` are the places of `layers` in the arrays of `texts`, which are never cut to fewer layers.
    """

    run: str
    layers: Sequence[int]
    top_k: int
    pivot: str
    tokens: Mapping[str, int]
    count: Mapping[str, np.ndarray]
    weight_sum: Mapping[str, np.ndarray]
    probability: Mapping[str, np.ndarray]
    profiles: Mapping[str, Mapping[str, np.ndarray]]
    texts: Mapping[str, Sequence[Text]]
    indexes: Sequence[int]

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
    index = np.arange(shape[0])[:, None]
    for lang, texts in world.texts.items():
        tokens[lang] = sum(len(text.token_ids) for text in texts)
        for text in texts:
            probability[lang] += len(text.token_ids) * text.profile.astype(np.float64)
            np.add.at(count[lang], (index, text.experts), 1)
            np.add.at(weight_sum[lang], (index, text.experts), text.weights.astype(np.float64))
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
        texts=world.texts,
        indexes=range(shape[0]),
    )


def of_languages(data: Routing, languages: Sequence[str] | None) -> Routing:
    kept = [lang for lang in data.languages if languages is None or lang in languages]
    return replace(data, count={lang: data.count[lang] for lang in kept})


def of_layers(data: Routing, layers: Sequence[int] | None) -> Routing:
    kept = [index for index, layer in enumerate(data.layers) if layers is None or layer in layers]
    cut = {
        name: {lang: values[kept] for lang, values in getattr(data, name).items()}
        for name in ("count", "weight_sum", "probability")
    }
    profiles = {
        lang: {text_id: profile[kept] for text_id, profile in texts.items()} for lang, texts in data.profiles.items()
    }
    return replace(data, **cut, profiles=profiles, layers=[data.layers[index] for index in kept], indexes=kept)


def of_any_layers(metric: Callable[..., list[Row]]) -> Callable[..., list[Row]]:
    """Give a metric the argument `layers`."""

    @wraps(metric)
    def of_some_layers(data: Routing, *, layers: Sequence[int] | None = None, **arguments: Any) -> list[Row]:
        return metric(of_layers(data, layers), **arguments)

    return of_some_layers


def of_any_languages(metric: Callable[..., list[Row]]) -> Callable[..., list[Row]]:
    """Give a metric the argument `languages`."""

    @wraps(metric)
    def of_some_languages(data: Routing, *, languages: Sequence[str] | None = None, **arguments: Any) -> list[Row]:
        return metric(of_languages(data, languages), **arguments)

    return of_some_languages


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
                "probability_jsd": jsd(probability_p, probability_q),
                "probability_jsd_normalized": jsd_normalized(probability_p, probability_q),
            }
        )
    return rows


@of_any_languages
@of_any_layers
def divergence_by_layer(data: Routing) -> list[Row]:
    rows, columns = divergence(data), ("jsd", "jsd_normalized", "probability_jsd", "probability_jsd_normalized")
    found = []
    for layer in data.layers:
        pairs = [row for row in rows if row["layer"] == layer]
        if pairs:
            means = {name: float(np.mean([row[name] for row in pairs])) for name in columns}
            found.append({"layer": layer, "pairs": len(pairs), **means})
    return found


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


@of_any_layers
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


@of_any_layers
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


@of_any_languages
@of_any_layers
def activation_gap(data: Routing) -> list[Row]:
    rows = []
    for index, layer, expert in data.cells():
        share = {lang: data.count[lang][index, expert] / (data.tokens[lang] * data.top_k) for lang in data.languages}
        first, *others = sorted(share, key=lambda lang: -share[lang])
        gap = share[first] - share[others[0]] if others else None
        rows.append({"layer": layer, "expert": expert, "lang": first if gap else None, "gap": gap})
    return rows


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
        rows.append({"layer": layer, "specialization": value})
    return rows


@of_any_languages
@of_any_layers
def exclusive_experts(data: Routing, threshold: float = 0.5) -> list[Row]:
    stacked = np.stack([data.share(lang) for lang in data.languages])
    total = stacked.sum(axis=0)
    rows = []
    for number, lang in enumerate(data.languages):
        for index, layer, expert in data.cells():
            share = stacked[number, index, expert]
            if total[index, expert] > 0 and share / total[index, expert] >= threshold - 1e-12:
                language_share = share / total[index, expert]
                rows.append(
                    {"lang": lang, "layer": layer, "expert": expert, "share": share, "language_share": language_share}
                )
    return rows


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


def task_experts(
    runs: Sequence[Routing], tau: float = 0, lang: str | None = None, layers: Sequence[int] | None = None
) -> list[Row]:
    """Every pair of runs of as many experts; unlike the other metrics, of several runs."""
    cut = [of_layers(run, layers) for run in runs]
    rows = []
    for a in cut:
        for b in cut:
            if a.run == b.run or a.num_experts != b.num_experts or (lang and lang not in {*a.count} & {*b.count}):
                continue
            of_a, of_b = text_frequency(a, lang), text_frequency(b, lang)
            for index, layer, expert in a.cells():
                if layer in b.layers:
                    score = of_a[index, expert] - of_b[b.layers.index(layer), expert]
                    named = {"run_a": a.run, "run_b": b.run, "layer": layer, "expert": expert}
                    rows.append({**named, "score": score, "selected": bool(score > tau)})
    return rows


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


METRICS: dict[str, Callable[..., list[Row]]] = {
    metric.__name__: metric
    for metric in (
        activation,
        expert_sets,
        jaccard,
        divergence_by_layer,
        jaccard_by_layer,
        jaccard_by_language,
        jaccard_by_pair,
        routing_entropy,
        divergence,
        pivot_similarity,
        specificity,
        overlap,
        zones,
        zones_auto,
        activation_gap,
        language_specialization,
        exclusive_experts,
        vocabulary_overlap,
        divergence_vs_vocabulary,
        routing_consistency,
    )
}
