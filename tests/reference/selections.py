"""Every strategy a second time, in NumPy, from the formulas and the raw routing: never from the SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.reference import metrics as reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.reference.metrics import Routing

Cell = tuple[int, int]  # layer, expert


def rise(
    data: Routing, target: str | Sequence[str], budget: int, alpha: float = 10, min_count: int = 0, shrinkage: float = 0
) -> list[tuple[int, int, str]]:
    """RISE's algorithm 1 as (layer, expert, zone), best first within each zone.

    Of several targets each cell has its best score, and a target with fewer than `min_count` decisions there has none:
    fewer come back than the budget where a zone has too few with a score.
    """
    mean = np.mean([data.frequency(lang) for lang in data.languages], axis=0)
    scores = []
    for lang in [target] if isinstance(target, str) else target:
        of_mean = data.tokens[lang] * mean + shrinkage
        lead = (data.count[lang] + shrinkage) / np.where(of_mean > 0, of_mean, 1)
        score = lead * (1 + alpha * data.frequency(lang))
        scores.append(np.where(data.count[lang] >= min_count, score, -1))
    best = np.max(scores, axis=0)
    cells = [(index, layer, expert) for index, layer, expert in data.cells() if best[index, expert] >= 0]
    specific = {(layer, expert): best[index, expert] for index, layer, expert in cells}
    shared = {(row["layer"], row["expert"]): row["score"] for row in reference.overlap(data, alpha=alpha)}
    zone_of = {row["layer"]: row["zone"] for row in reference.zones(data)}
    pools = {
        zone: sorted(
            (cell for cell in scores if zone_of[cell[0]] == zone),
            key=lambda cell, scores=scores: (-round(scores[cell], 10), cell),
        )
        for zone, scores in (("shallow", specific), ("middle", shared), ("deep", specific))
    }
    wanted = {"shallow": budget * 35 // 100, "middle": budget * 25 // 100}
    wanted["deep"] = budget - sum(wanted.values())
    size = {zone: data.num_experts * list(zone_of.values()).count(zone) for zone in pools}
    taken = {zone: min(wanted[zone], size[zone]) for zone in pools}
    while sum(taken.values()) < budget:
        room = {zone: size[zone] - taken[zone] for zone in pools}
        widest = max(room, key=room.__getitem__)
        taken[widest] += min(room[widest], budget - sum(taken.values()))
    return [(*cell, zone) for zone, pool in pools.items() for cell in pool[: taken[zone]]]


def gap(
    data: Routing,
    owners: Sequence[str],
    languages: Sequence[str],
    layers: int,
    alpha: float,
    shared: int,
    min_count: int = 0,
) -> dict[Cell, str]:
    """The role of each expert that 2605.29714 selects."""
    share = np.stack([data.share(lang) for lang in languages])  # [languages, layers, experts]
    selected: dict[Cell, str] = {}
    for index in range(len(data.layers))[-layers:]:
        layer = data.layers[index]
        for expert in range(data.num_experts):
            second, first = np.sort(share[:, index, expert])[-2:]
            owner = languages[int(np.argmax(share[:, index, expert]))]
            used = data.count[owner][index, expert] >= min_count
            if used and first > second and round(first - second, 12) >= alpha and owner in owners:
                selected[layer, expert] = "specific"
        mean = share[:, index].mean(axis=0).round(12)
        others = [expert for expert in np.argsort(-mean, kind="stable") if (layer, expert) not in selected]
        selected |= {(layer, int(expert)): "shared" for expert in others[:shared]}
    return selected


def top_p(data: Routing, languages: Sequence[str], score: str, p: float) -> dict[int, list[int]]:
    """ESFT's selection, of each layer in rank order; sums in whole steps of the four decimals."""
    of_language = data.count if score == "token" else data.weight_sum
    total = sum(of_language[lang] for lang in languages)
    share = total / total.sum(axis=1, keepdims=True)
    selected: dict[int, list[int]] = {}
    for layer, row in zip(data.layers, share, strict=True):
        steps = [round(10_000 * round(float(value), 4)) for value in row]
        ranked = sorted(range(len(row)), key=lambda expert, steps=steps: (-steps[expert], expert))
        # How many it takes: one more than there are sums that fall short.
        short = sum(int(reached) < round(10_000 * p, 6) for reached in np.cumsum([steps[expert] for expert in ranked]))
        selected[layer] = ranked[: short + 1]
    return selected


def top_k(
    data: Routing, languages: Sequence[str], number: int, *, per_layer: bool = False, min_count: int = 0
) -> list[Cell]:
    count = sum(data.count[lang] for lang in languages).ravel()
    frequency = count / sum(data.tokens[lang] for lang in languages)
    cells = [(layer, expert) for _, layer, expert in data.cells()]
    ranked = [cells[place] for place in np.argsort(-frequency.round(12), kind="stable") if count[place] >= min_count]
    if not per_layer:
        return ranked[:number]
    return [cell for layer in data.layers for cell in [cell for cell in ranked if cell[0] == layer][:number]]


def task(a: Routing, b: Routing, tau: float, lang: str | None = None) -> dict[Cell, float]:
    """The score of each task expert of a against b."""
    lead = reference.text_frequency(a, lang) - reference.text_frequency(b, lang)
    middle = {row["layer"] for row in reference.zones(a) if row["zone"] == "middle"}
    return {
        (layer, expert): lead[index, expert]
        for index, layer, expert in a.cells()
        if layer in middle and round(lead[index, expert], 12) > tau
    }


def load(data: Routing, chosen: Iterable[Cell], languages: Sequence[str]) -> float:
    """The share of all decisions of some languages that went to the chosen cells."""
    decisions = sum(data.count[lang] for lang in languages)
    places = {layer: index for index, layer in enumerate(data.layers)}
    return sum(decisions[places[layer], expert] for layer, expert in chosen) / decisions.sum()
