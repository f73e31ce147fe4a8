"""The self-check accepts what a router of the declared rule does, whatever the rule, and names each known mistake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.errors import CaptureError
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.model.replay import RoutingEvidence, check_routing
from tests.support.examples import examples

SOFTMAX = RoutingRule("softmax", normalized=True)
SIGMOID = RoutingRule("sigmoid", normalized=True, scale=2.5, selection_bias=True, groups=4, groups_kept=2)
DEEPSEEK_V3 = replace(SIGMOID, group_score="top2")
PHIMOE = RoutingRule("softmax", normalized=False, sparsemixer=0.01)


def route_token(rule: RoutingRule, logits: np.ndarray, bias: np.ndarray | None, top_k: int) -> list[tuple[int, float]]:
    """One token's experts and weights by the words of `RoutingRule`, one expert at a time, in plain Python."""
    values = [float(value) for value in logits]
    if rule.sparsemixer:
        return sparsemixer(values, rule.sparsemixer, top_k)
    if rule.scoring == "sigmoid":
        scores = [1 / (1 + np.exp(-value)) for value in values]
    else:
        total = sum(np.exp(value - max(values)) for value in values)
        scores = [np.exp(value - max(values)) / total for value in values]
    ranked = [score + (float(bias[e]) if rule.selection_bias else 0.0) for e, score in enumerate(scores)]
    size = len(values) // rule.groups

    def of_group(group: int) -> float:
        best = sorted(ranked[group * size : (group + 1) * size], reverse=True)
        return sum(best[:2]) if rule.group_score == "top2" else best[0]

    groups = sorted(range(rule.groups), key=of_group, reverse=True)[: rule.groups_kept]
    eligible = [e for e in range(len(values)) if e // size in groups]
    chosen = sorted(eligible, key=lambda e: ranked[e], reverse=True)[:top_k]
    divisor = sum(scores[e] for e in chosen) if rule.normalized else 1.0
    return [(e, rule.scale * scores[e] / divisor) for e in chosen]


def sparsemixer(values: list[float], epsilon: float, top_k: int) -> list[tuple[int, float]]:
    left, chosen = dict(enumerate(values)), []
    for _ in range(top_k):
        expert = max(left, key=lambda e: left[e])
        best = left[expert]
        near = [v for v in left.values() if (best - v) / max(abs(v), best) <= 2 * epsilon]
        chosen.append((expert, 1 / sum(np.exp(v - best) for v in near)))
        del left[expert]
    return chosen


def evidence(
    rule: RoutingRule, *, layer: int = 3, tokens: int = 40, experts: int = 16, top_k: int = 4, seed: int = 0, **own: Any
) -> RoutingEvidence:
    rng = np.random.default_rng(seed)
    logits = own.get("logits", rng.normal(0, 2, (tokens, experts)).astype(np.float32))
    bias = rng.normal(0, 0.3, experts).astype(np.float32)
    routed = [route_token(rule, row, bias, top_k) for row in logits]
    ids = np.array([[e for e, _ in token] for token in routed], dtype=np.int32)
    weights = np.array([[w for _, w in token] for token in routed], dtype=np.float32)
    return RoutingEvidence(layer, logits, ids, weights, bias)


@st.composite
def rules(draw: st.DrawFn) -> RoutingRule:
    groups, kept = draw(st.sampled_from([(1, 1), (4, 1), (4, 2), (8, 4), (2, 1)]))
    return RoutingRule(
        scoring=draw(st.sampled_from(["softmax", "sigmoid"])),
        normalized=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 1.5, 2.5, 16.0])),
        selection_bias=draw(st.booleans()),
        groups=groups,
        groups_kept=kept,
        group_score=draw(st.sampled_from(["max", "top2"])),
        sparsemixer=draw(st.sampled_from([0.0, 0.0, 0.0, 0.01])) if groups == 1 else 0.0,
    )


def plain(rule: RoutingRule) -> RoutingRule:
    """SparseMixer knows no other scoring, bias or scale: a rule with it says so."""
    return RoutingRule("softmax", normalized=False, sparsemixer=rule.sparsemixer) if rule.sparsemixer else rule


@given(rules(), st.integers(0, 2**32 - 1))
@examples(80)
def test_routing_by_the_declared_rule_passes_whatever_the_rule(rule: RoutingRule, seed: int) -> None:
    rule = plain(rule)
    check_routing(rule, [evidence(rule, seed=seed, tokens=12, top_k=2)])


@given(rules(), st.integers(0, 2**32 - 1), st.data())
@examples(60)
def test_an_expert_that_was_swapped_for_a_worse_one_is_noticed(
    rule: RoutingRule, seed: int, data: st.DataObject
) -> None:
    rule = plain(rule)
    good = evidence(rule, seed=seed, tokens=8, top_k=2)
    token = data.draw(st.integers(0, 7))
    scores = good.logits[token] + (8 * good.bias if rule.selection_bias else 0)
    worst = next(e for e in np.argsort(scores).tolist() if e not in good.experts[token])
    experts = good.experts.copy()
    experts[token, data.draw(st.integers(0, 1))] = worst
    with pytest.raises(CaptureError, match=r"layer 3: .* do not follow"):
        check_routing(rule, [replace(good, experts=experts)])


@given(rules(), st.integers(0, 2**32 - 1))
@examples(40)
def test_rows_of_other_tokens_are_noticed(rule: RoutingRule, seed: int) -> None:
    good = evidence(plain(rule), seed=seed)
    with pytest.raises(CaptureError, match="do not follow"):
        check_routing(plain(rule), [replace(good, experts=good.experts[::-1], weights=good.weights[::-1])])


@pytest.mark.parametrize(
    ("declared", "done", "reason"),
    [
        (DEEPSEEK_V3, replace(DEEPSEEK_V3, selection_bias=False, group_score="max"), "leaves out the selection bias"),
        (
            replace(SOFTMAX, selection_bias=True),
            SOFTMAX,
            "leaves out the selection bias",
        ),
        (SOFTMAX, replace(SOFTMAX, selection_bias=True), "selects experts with a bias"),
        (SOFTMAX, replace(SOFTMAX, normalized=False), "does not renormalise"),
        (replace(SOFTMAX, normalized=False), SOFTMAX, "renormalises the weights"),
        (DEEPSEEK_V3, replace(DEEPSEEK_V3, normalized=False), "does not renormalise"),
        (DEEPSEEK_V3, replace(DEEPSEEK_V3, scale=1.0), "leaves out the routed scaling factor 2.5"),
        (DEEPSEEK_V3, replace(DEEPSEEK_V3, scale=6.25), "applies the routed scaling factor 2.5 twice"),
        (DEEPSEEK_V3, replace(DEEPSEEK_V3, scoring="softmax"), "scores with softmax, not sigmoid"),
        (SOFTMAX, replace(SOFTMAX, scoring="sigmoid"), "scores with sigmoid, not softmax"),
        (DEEPSEEK_V3, replace(DEEPSEEK_V3, groups=1, groups_kept=1), "does not limit experts to the best groups"),
        (PHIMOE, replace(PHIMOE, sparsemixer=0.0), "does not weight experts with SparseMixer"),
        (SOFTMAX, PHIMOE, "the gate weights of 40 of 40 tokens do not follow"),
        (replace(SOFTMAX, scale=2.0), replace(SOFTMAX, scale=3.0), "gate weights of 40 of 40 tokens"),
    ],
)
def test_an_engine_that_does_something_else_is_named(declared: RoutingRule, done: RoutingRule, reason: str) -> None:
    right, wrong = evidence(declared, layer=0), evidence(done, layer=7)
    with pytest.raises(CaptureError, match=f"^layer 7: the engine does not route as .* {reason}"):
        check_routing(declared, [right, wrong])


def test_a_missing_bias_is_named() -> None:
    unbiased = replace(evidence(SOFTMAX), bias=None)
    check_routing(SOFTMAX, [unbiased])
    with pytest.raises(CaptureError, match=r"layer 3: .*it leaves out the selection bias"):
        check_routing(replace(SOFTMAX, selection_bias=True), [unbiased])


def test_logits_in_bfloat16_may_be_tied_and_their_weights_rounded_but_not_more() -> None:
    rng = np.random.default_rng(1)
    logits = to_bfloat16(rng.normal(0, 2, (200, 16)).astype(np.float32))
    for rule in (SOFTMAX, replace(SOFTMAX, normalized=False), replace(DEEPSEEK_V3, normalized=False)):
        exact = evidence(rule, logits=logits)
        check_routing(rule, [replace(exact, weights=to_bfloat16(exact.weights))])
        with pytest.raises(CaptureError, match="renormalise"):
            check_routing(replace(rule, normalized=not rule.normalized), [exact])


def test_tied_experts_may_be_chosen_either_way_and_others_not() -> None:
    logits = np.array([[4.0, 1.0, 1.0, 0.9, -3.0, 0.3]], dtype=np.float32)
    tied = [np.array([[0, expert]], dtype=np.int32) for expert in (1, 2, 3)]
    weight = np.exp([4.0, 1.0]) / np.exp([4.0, 1.0]).sum()
    rows = [RoutingEvidence(1, logits, experts, weight[None].astype(np.float32), None) for experts in tied]
    check_routing(SOFTMAX, rows[:2])
    with pytest.raises(CaptureError, match=r"layer 1: .*experts of 1 of 1 tokens"):
        check_routing(SOFTMAX, rows)


def test_tied_groups_may_be_kept_either_way_but_not_both() -> None:
    rule = RoutingRule("sigmoid", normalized=False, groups=3, groups_kept=1)
    logits = np.array([[2.0, 1.0, 2.0, 1.0, 0.5, 0.4]], dtype=np.float32)
    for experts, fine in (([0, 1], True), ([2, 3], True), ([0, 2], False), ([4, 5], False)):
        ids = np.array([experts], dtype=np.int32)
        weights = (1 / (1 + np.exp(-logits[:, experts]))).astype(np.float32)
        row = RoutingEvidence(0, logits, ids, weights, None)
        if fine:
            check_routing(rule, [row])
            continue
        with pytest.raises(CaptureError, match="layer 0"):
            check_routing(rule, [row])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"experts": np.full((40, 4), 16, dtype=np.int32)}, "experts outside 0 to 15"),
        ({"experts": np.full((40, 4), -1, dtype=np.int32)}, "experts outside 0 to 15"),
        ({"experts": np.full((40, 4), 5, dtype=np.int32)}, "twice to the same expert"),
        ({"weights": np.full((40, 4), np.nan, dtype=np.float32)}, "not finite"),
        ({"weights": np.zeros((39, 4), dtype=np.float32)}, r"\(39, 4\) weights"),
    ],
)
def test_what_can_be_no_routing_is_refused(change: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        check_routing(SOFTMAX, [replace(evidence(SOFTMAX), **change)])


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, kept as float32."""
    return ((values.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
