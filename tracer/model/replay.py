"""The self-check: routing that an engine did is replayed from its own router logits by the family's declared rule.

It tells an engine that leaves out a selection bias, a scale or a renormalisation, and a rule that was guessed wrong,
from one that routes as declared. NumPy only: the same check serves an engine on any device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moetrace.tracer.model.families import RoutingRule

Floats = npt.NDArray[np.float64]

TOLERANCE = 1e-5  # relative: float32 sums in another order, fast exponentials, the epsilons of denominators
HALF_STEPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # relative rounding error of a float


@dataclass(frozen=True)
class RoutingEvidence:
    """What one MoE layer did with n tokens.

    - logits: float32 [n, E], the router logits; experts: int32 [n, k]
    - weights: float32 [n, k], as applied, the routed scaling factor included
    - bias: float32 [E], the selection bias that the layer holds, or None
    """

    layer: int
    logits: npt.NDArray[np.float32]
    experts: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None


def check_routing(rule: RoutingRule, evidence: Sequence[RoutingEvidence], tolerance: float = TOLERANCE) -> None:
    """Raise CaptureError, naming the layer and the reason, where experts or weights do not follow from the logits.

    Expert sets must be those of `rule`, except where the engine's float type cannot tell scores apart; weights must be
    within `tolerance`, relatively, or within what rounding in the type of the logits explains where that is more.
    """
    for layer in evidence:
        found = _difference(rule, layer, tolerance)
        if found:
            raise CaptureError(
                f"layer {layer.layer}: the engine does not route as the model's config says: "
                f"{_reason(rule, layer, tolerance) or found}"
            )


def _difference(rule: RoutingRule, layer: RoutingEvidence, tolerance: float) -> str | None:
    """Return in what way the layer's routing is not the rule's, None where it is."""
    impossible = _impossible(layer)
    if impossible:
        return impossible
    if rule.selection_bias and layer.bias is None:
        return "experts are to be selected with a bias, and the layer has none"
    rows, step = len(layer.logits), _half_step(layer.logits)
    wrong = ~_follows(rule, layer, step)
    if wrong.any():
        return f"the experts of {wrong.sum()} of {rows} tokens do not follow from their router logits"
    want, slack = gate_weights(rule, layer, step)
    error = np.abs(layer.weights - want) / np.maximum(want, np.finfo(np.float32).tiny)
    wrong = (error > np.maximum(tolerance, slack)).any(axis=1)
    if wrong.any():
        return (
            f"the gate weights of {wrong.sum()} of {rows} tokens do not follow from their router logits "
            f"(up to {error.max():.2g} of their value off)"
        )
    return None


def _impossible(layer: RoutingEvidence) -> str | None:
    """Return why the evidence can be of no routing at all, None where it can."""
    experts = layer.experts
    rows, count = layer.logits.shape
    if experts.shape != layer.weights.shape or len(experts) != rows or experts.shape[1] > count:
        return f"{experts.shape} experts and {layer.weights.shape} weights for {layer.logits.shape} logits"
    if not np.isfinite(layer.logits).all() or not np.isfinite(layer.weights).all():
        return "its router logits or gate weights are not finite"
    ordered = np.sort(experts, axis=1)
    if ordered[:, :1].min(initial=0) < 0 or ordered[:, -1:].max(initial=0) >= count:
        return f"it names experts outside 0 to {count - 1}"
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return "it sends a token twice to the same expert"
    return None


def _half_step(logits: npt.NDArray[np.float32]) -> float:
    """Return the relative rounding error of the coarsest float type that holds the logits exactly."""
    if not (logits.view(np.uint32) & 0xFFFF).any():
        return HALF_STEPS["bfloat16"]
    with np.errstate(over="ignore"):
        halves = logits.astype(np.float16)
    return HALF_STEPS["float16" if np.array_equal(halves, logits) else "float32"]


def router_scores(rule: RoutingRule, logits: Floats) -> Floats:
    """Return the scores [n, E] of logits [n, E]."""
    if rule.scoring == "sigmoid":
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _follows(rule: RoutingRule, layer: RoutingEvidence, step: float) -> npt.NDArray[np.bool_]:
    """Tell for each token whether its expert set is the rule's, or as good as it where scores are nearly tied."""
    scores = layer.logits.astype(np.float64)
    if rule.selection_bias or rule.groups > 1:
        scores = router_scores(rule, scores)
        if rule.selection_bias and layer.bias is not None:
            scores = scores + layer.bias
        tie = 4 * step * np.abs(scores).max(axis=1, keepdims=True)
    else:
        # Logits order experts as scores do, without the scores' underflow; scores a few steps apart may be tied.
        tie = 4 * step + 4 * HALF_STEPS["float32"] * np.abs(scores).max(axis=1, keepdims=True)
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, layer.experts, values=True, axis=1)
    eligible = np.ones_like(chosen)
    allowed = np.ones(len(scores), dtype=bool)
    if rule.groups > 1:
        eligible, allowed = _eligible(rule, scores, chosen, tie)
    worst_chosen = np.where(chosen, scores, np.inf).min(axis=1)
    best_left = np.where(eligible & ~chosen, scores, -np.inf).max(axis=1)
    return np.asarray(allowed & (worst_chosen >= best_left - tie[:, 0]))


def _eligible(
    rule: RoutingRule, scores: Floats, chosen: npt.NDArray[np.bool_], tie: Floats
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which experts [n, E] compete, and which tokens [n] have theirs from groups that may be kept.

    Groups clear of a tie compete whether used or not; of groups tied for the last place, those that were used do.
    """
    rows = len(scores)
    grouped = np.sort(scores.reshape(rows, rule.groups, -1), axis=2)
    ranked = grouped[:, :, -2:].sum(axis=2) if rule.group_score == "top2" else grouped[:, :, -1]
    used = chosen.reshape(rows, rule.groups, -1).any(axis=2)
    order = -np.sort(-ranked, axis=1)
    last, first_left = order[:, rule.groups_kept - 1, None], order[:, rule.groups_kept, None]
    sure = ranked > first_left + 2 * tie
    possible = ranked >= last - 2 * tie
    kept = sure | (used & possible)
    allowed = ~(used & ~possible).any(axis=1) & (kept.sum(axis=1) <= rule.groups_kept)
    return np.repeat(kept, scores.shape[1] // rule.groups, axis=1), allowed


def gate_weights(rule: RoutingRule, layer: RoutingEvidence, step: float = 0.0) -> tuple[Floats, Floats]:
    """Return the weights [n, k] of the engine's experts by the rule, and the relative error that rounding may make.

    step: relative rounding error of the type that the engine computed in
    """
    logits = layer.logits.astype(np.float64)
    if rule.sparsemixer:
        weights = rule.scale * _sparsemixer_weights(rule.sparsemixer, logits, layer.experts)
        return weights, np.full_like(weights, 4 * step)
    chosen = np.take_along_axis(logits, layer.experts, axis=1)
    weights = np.take_along_axis(router_scores(rule, logits), layer.experts, axis=1)
    # A softmax computed in a narrow type rounds the sum's logarithm and its difference from a logit.
    total = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    slack = 2 * step * (3 + np.abs(total) + np.abs(chosen - total))
    if rule.normalized:
        weights = weights / weights.sum(axis=1, keepdims=True)
        slack = np.full_like(weights, 8 * step)
    return rule.scale * weights, slack


def _sparsemixer_weights(epsilon: float, logits: Floats, experts: npt.NDArray[np.int32]) -> Floats:
    """Return SparseMixer's weights [n, k] of experts [n, k], taken in the order of their logits."""
    rows = np.arange(len(logits))
    order = np.argsort(-np.take_along_axis(logits, experts, axis=1), axis=1, kind="stable")
    left, weights = logits.copy(), np.empty(experts.shape)
    for rank in range(experts.shape[1]):
        column = order[:, rank]
        expert = experts[rows, column]
        best = left[rows, expert][:, None]
        near = (best - logits) / np.maximum(np.abs(logits), best) <= 2 * epsilon
        weights[rows, column] = 1 / np.where(near & np.isfinite(left), np.exp(left - best), 0.0).sum(axis=1)
        left[rows, expert] = -np.inf
    return weights


def _reason(rule: RoutingRule, layer: RoutingEvidence, tolerance: float) -> str | None:
    """Return what the engine does instead, where it is one of the known mistakes."""
    for reason, other in _mistakes(rule):
        if _difference(other, layer, tolerance) is None:
            return reason
    return None


def _mistakes(rule: RoutingRule) -> Iterator[tuple[str, RoutingRule]]:
    if rule.selection_bias:
        unbiased = replace(rule, selection_bias=False, group_score="max")
        yield "it leaves out the selection bias", unbiased
    else:
        yield "it selects experts with a bias", replace(rule, selection_bias=True)
    verb = "does not renormalise" if rule.normalized else "renormalises"
    yield f"it {verb} the weights of the chosen experts", replace(rule, normalized=not rule.normalized)
    if rule.scale != 1.0:
        yield f"it leaves out the routed scaling factor {rule.scale:g}", replace(rule, scale=1.0)
        yield f"it applies the routed scaling factor {rule.scale:g} twice", replace(rule, scale=rule.scale**2)
    other = "softmax" if rule.scoring == "sigmoid" else "sigmoid"
    yield f"it scores with {other}, not {rule.scoring}", replace(rule, scoring=other)
    if rule.sparsemixer:
        yield "it does not weight experts with SparseMixer", replace(rule, sparsemixer=0.0)
    if rule.groups > 1:
        yield "it does not limit experts to the best groups", replace(rule, groups=1, groups_kept=1)
