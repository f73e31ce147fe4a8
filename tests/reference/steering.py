"""What an intervention does, a second time: one token after another, in NumPy, from the formulas of the papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moetrace.tracer.model.families import RoutingRule

EPSILON = 0.01


def steered(logits: np.ndarray, layer: int, steps: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Return the router logits [E] of one token of a layer under the steps of an intervention's file."""
    own = np.asarray(logits, dtype=np.float64)
    shifted = own.copy()
    for step in steps:
        for item in step["experts"]:
            if item["layer"] != layer:
                continue
            expert, by = item["expert"], step.get("lambda", 0.0) * item.get("strength", 1.0)
            if step["mode"] == "soft":
                shifted[expert] += by * np.sqrt(np.mean((own - own.mean()) ** 2))
            elif step["mode"] == "scale":
                shifted[expert] += by * abs(own[expert])
    forced = shifted.copy()
    for expert, sign in forces(layer, steps).items():
        forced[expert] = shifted.max() + EPSILON if sign > 0 else shifted.min() - EPSILON
    return forced


def forces(layer: int, steps: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Return the experts of a layer that are promoted (1) and suppressed (-1)."""
    return {
        item["expert"]: 1 if step["mode"] == "promote" else -1
        for step in steps
        for item in step["experts"]
        if step["mode"] in {"promote", "suppress"} and item["layer"] == layer
    }


def choice_scores(
    logits: np.ndarray, forced: Mapping[int, int], rule: RoutingRule, bias: np.ndarray | None
) -> np.ndarray:
    """Return what a router chooses experts by, [E], from steered logits of one token: the k highest are chosen."""
    exponent = np.exp(logits - logits.max())
    scores = exponent / exponent.sum() if rule.scoring == "softmax" else 1 / (1 + np.exp(-logits))
    choice = np.array(logits if not rule.selection_bias and rule.groups == 1 else scores, dtype=np.float64)
    if rule.selection_bias and bias is not None:
        choice += bias
    highest, lowest = choice.max() + 1, choice.min() - 1
    for expert, force in forced.items():
        choice[expert] = highest if force > 0 else lowest
    if rule.groups > 1:
        size = len(choice) // rule.groups
        ranks = []
        for group in range(rule.groups):
            values = choice[group * size : (group + 1) * size]
            wins = any(force > 0 and expert // size == group for expert, force in forced.items())
            ranks.append((wins, sum(sorted(values)[-2:]) if rule.group_score == "top2" else max(values), group))
        for *_, group in sorted(ranks)[: -rule.groups_kept]:
            choice[group * size : (group + 1) * size] = -np.inf
    return choice


def chosen(
    logits: np.ndarray, forced: Mapping[int, int], rule: RoutingRule, top_k: int, bias: np.ndarray | None
) -> set[int]:
    """Return the experts that a router chooses from steered logits [E] of one token."""
    return set(np.argsort(-choice_scores(logits, forced, rule, bias), kind="stable")[:top_k].tolist())


def weights(logits: np.ndarray, experts: Iterable[int], rule: RoutingRule) -> dict[int, float]:
    """Return the gate weights of chosen experts as the layer applies them."""
    exponent = np.exp(logits - logits.max())
    scores = exponent / exponent.sum() if rule.scoring == "softmax" else 1 / (1 + np.exp(-logits))
    found = {expert: float(scores[expert]) for expert in experts}
    total = sum(found.values()) if rule.normalized else 1.0
    return {expert: rule.scale * score / total for expert, score in found.items()}
