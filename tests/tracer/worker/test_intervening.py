"""What interventions do to rows of logits and to choices: against the formulas in NumPy, for every kind of router."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import check_intervention_fits, intervention_of
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.worker.steps import StepRows
from tests.reference import steering as reference

torch = pytest.importorskip("torch")

LAYERS, EXPERTS, TOP_K = [2, 3, 5], 16, 4
RULES = {
    "softmax": RoutingRule("softmax", normalized=True),
    "not normalised": RoutingRule("softmax", normalized=False, scale=2.5),
    "sigmoid": RoutingRule("sigmoid", normalized=False),
    "biased": RoutingRule("softmax", normalized=True, selection_bias=True),
    "sigmoid, biased": RoutingRule("sigmoid", normalized=True, scale=1.5, selection_bias=True),
    "groups": RoutingRule("softmax", normalized=False, scale=3.0, groups=4, groups_kept=2),
    "groups, biased": RoutingRule(
        "sigmoid", normalized=True, scale=2.5, selection_bias=True, groups=4, groups_kept=2, group_score="top2"
    ),
}


def drawn_steps(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Steps of every mode at drawn experts: two promoted ones and two suppressed ones in a layer, others shifted."""
    steps: list[dict[str, Any]] = [
        {"mode": mode, "lambda": float(rng.normal()), "experts": []} for mode in ("soft", "scale", "soft")
    ]
    steps += [{"mode": "promote", "experts": []}, {"mode": "suppress", "experts": []}]
    for layer in LAYERS[:2]:
        order = [int(expert) for expert in rng.permutation(EXPERTS)]
        for step, experts in zip(steps, (order[:3], order[2:5], order[1:2], order[4:6], order[6:8]), strict=True):
            for expert in experts:
                item: dict[str, Any] = {"layer": layer, "expert": expert}
                if "lambda" in step:
                    item["strength"] = float(rng.uniform(0.5, 2))
                step["experts"].append(item)
    return steps


def route(logits: Any, rule: RoutingRule, bias: Any) -> tuple[Any, Any]:
    """Route as vLLM's plain and grouped routers do: weights [n, k], ids [n, k]."""
    scores = torch.softmax(logits, -1) if rule.scoring == "softmax" else torch.sigmoid(logits)
    choice = scores if bias is None else scores + bias
    if rule.groups > 1:
        grouped = choice.unflatten(-1, (rule.groups, -1))
        rank = grouped.topk(2, -1).values.sum(-1) if rule.group_score == "top2" else grouped.amax(-1)
        kept = torch.zeros_like(rank).scatter(-1, rank.topk(rule.groups_kept, -1).indices, 1.0).bool()
        choice = grouped.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(-2)
    ids = choice.topk(TOP_K, -1).indices
    weights = scores.gather(-1, ids)
    if rule.normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * rule.scale, ids.int()


def steering_of(rule: RoutingRule, *, static: bool) -> Any:
    from moetrace.tracer.worker.steering import Steering

    return Steering(LAYERS, EXPERTS, TOP_K, rule, 64, torch.device("cpu"), static=static)


def loaded(steering: Any, steps: list[dict[str, Any]], scope: str = "all") -> str:
    value = {"format": "moetrace-intervention", "version": 1, "name": "x", "scope": scope, "steps": steps}
    found = intervention_of(value, "x")
    parts = [[[*cell, value] for cell, value in part.items()] for part in (found.soft, found.scale, found.forced)]
    steering.load(found.digest, scope, *parts)
    return found.digest


def begin(steering: Any, name: str, prompt: int, digest: str | None) -> None:
    extra = None if digest is None else {"moetrace_steer": digest}
    sampling = SimpleNamespace(extra_args=extra)
    steering.begin(SimpleNamespace(req_id=name, sampling_params=sampling, prompt_token_ids=[0] * prompt))


@pytest.mark.parametrize("static", [False, True], ids=["some rows", "all rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", RULES)
def test_a_batch_of_interventions_is_each_by_the_formulas(kind: str, dtype: Any, static: bool) -> None:  # noqa: FBT001
    rule, rng = RULES[kind], np.random.default_rng(4)
    steering, bias = steering_of(rule, static=static), None
    if rule.selection_bias:
        bias = torch.from_numpy(rng.normal(size=EXPERTS).astype(np.float32))  # more than a sigmoid can make up for
    steps = {name: drawn_steps(rng) for name in ("a", "b")}
    for name in ("a", "b"):
        begin(steering, name, 99, loaded(steering, steps[name]))
    begin(steering, "plain", 99, None)
    steering.before_forward(StepRows(["a", "plain", "b"], np.zeros(3, np.int64), np.array([7, 5, 9])))
    of_row = ["a"] * 7 + ["plain"] * 5 + ["b"] * 9
    hidden = torch.zeros(len(of_row), 2)
    for index, layer in enumerate(LAYERS):
        own = torch.from_numpy(rng.normal(size=(len(of_row), EXPERTS)).astype(np.float32) * 3).to(dtype)
        logits = own.clone()
        steering.before_routing(index, logits)
        weights, ids = route(logits.float(), rule, bias)
        steering.after_routing(index, lambda _, some: route(some, rule, bias), hidden, logits, weights, ids, bias)
        own_weights, own_ids = route(own.float(), rule, bias)
        for row, name in enumerate(of_row):
            if name == "plain" or layer == LAYERS[2]:
                assert torch.equal(ids[row], own_ids[row])
                assert torch.equal(weights[row], own_weights[row])
                continue
            expected = reference.steered(own[row].float().numpy(), layer, steps[name])
            forced = reference.forces(layer, steps[name])
            chosen = reference.chosen(expected, forced, rule, TOP_K, None if bias is None else bias.numpy())
            assert set(ids[row].tolist()) == chosen
            assert {expert for expert, force in forced.items() if force > 0} <= chosen
            assert not {expert for expert, force in forced.items() if force < 0} & chosen
            found = dict(zip(ids[row].tolist(), weights[row].tolist(), strict=True))
            assert found == pytest.approx(reference.weights(expected, chosen, rule), rel=1e-4)


@pytest.mark.parametrize(("scope", "steered"), [("all", range(6)), ("prompt", range(4)), ("generated", (4, 5))])
def test_a_scope_is_of_positions(scope: str, steered: Any) -> None:
    steering = steering_of(RULES["softmax"], static=False)
    digest = loaded(steering, [{"mode": "promote", "experts": [{"layer": 2, "expert": 0}]}], scope)
    begin(steering, "r", 4, digest)
    for first, count in ((0, 3), (3, 1), (4, 2)):  # a prompt in two chunks, and what follows
        steering.before_forward(StepRows(["r"], np.array([first]), np.array([count])))
        logits = torch.zeros(count, EXPERTS)
        steering.before_routing(0, logits)
        positions = [first + row for row in range(count) if logits[row, 0] > 0]
        assert positions == [position for position in range(first, first + count) if position in steered]


def test_rows_of_an_earlier_step_are_forgotten() -> None:
    for static in (False, True):
        steering = steering_of(RULES["softmax"], static=static)
        begin(steering, "r", 9, loaded(steering, [{"mode": "promote", "experts": [{"layer": 2, "expert": 0}]}]))
        steering.before_forward(StepRows(["r"], np.array([0]), np.array([5])))
        steering.end("r")
        steering.nothing()
        logits = torch.zeros(6, EXPERTS)
        steering.before_routing(0, logits)
        assert not logits.any()
        begin(steering, "s", 9, loaded(steering, [{"mode": "promote", "experts": [{"layer": 2, "expert": 0}]}]))
        steering.before_forward(StepRows(["other", "s"], np.array([0, 0]), np.array([2, 1])))
        steering.before_routing(0, logits)
        assert logits[:, 0].gt(0).tolist() == [False, False, True, False, False, False]


def test_interventions_come_and_go() -> None:
    from moetrace.tracer.worker.steering import SLOTS

    steering = steering_of(RULES["softmax"], static=False)
    steps = [[{"mode": "soft", "lambda": 1.0 + n, "experts": [{"layer": 2, "expert": 0}]}] for n in range(SLOTS + 1)]
    digests = [loaded(steering, one) for one in steps[:SLOTS]]
    assert loaded(steering, steps[0]) == digests[0]  # the same again takes no place
    with pytest.raises(MoetraceError, match="at most 64 interventions at a time"):
        loaded(steering, steps[SLOTS])
    begin(steering, "r", 1, digests[3])
    steering.drop(digests[3])
    with pytest.raises(MoetraceError, match="asks for an intervention that this worker does not have"):
        begin(steering, "s", 1, digests[3])
    with pytest.raises(MoetraceError, match="at most 64 interventions at a time"):
        loaded(steering, steps[SLOTS])  # what runs keeps its place
    steering.before_forward(StepRows(["r"], np.array([0]), np.array([1])))
    logits = torch.arange(float(EXPERTS))[None]
    steering.before_routing(0, logits)
    assert float(logits[0, 0]) == pytest.approx(4.0 * np.arange(EXPERTS).std())
    steering.end("r")
    begin(steering, "s", 1, loaded(steering, steps[SLOTS]))
    steering.before_forward(StepRows(["s"], np.array([0]), np.array([1])))
    logits = torch.arange(float(EXPERTS))[None]
    steering.before_routing(0, logits)
    assert float(logits[0, 0]) == pytest.approx((1.0 + SLOTS) * np.arange(EXPERTS).std())
    assert steering.table_bytes() == (SLOTS + 1) * len(LAYERS) * EXPERTS * 9 + 64 * 8


def test_the_checks_and_the_arithmetic_agree_on_what_a_layer_can_do() -> None:
    """Whatever passes the check, every promoted expert is chosen and no suppressed one, whatever the logits are."""
    rng, tried = np.random.default_rng(0), 0
    for _ in range(300):
        rule = list(RULES.values())[int(rng.integers(len(RULES)))]
        order = rng.permutation(EXPERTS).tolist()
        promoted, suppressed = rng.integers(0, TOP_K + 1), rng.integers(0, EXPERTS)
        steps = [
            {"mode": "promote", "experts": [{"layer": 2, "expert": e} for e in order[:promoted]]},
            {"mode": "suppress", "experts": [{"layer": 2, "expert": e} for e in order[promoted:][:suppressed]]},
        ]
        value = {"format": "moetrace-intervention", "version": 1, "name": "x", "steps": steps}
        found = intervention_of(value, "x")
        facts = {"config_sha256": None, "moe_layers": LAYERS, "num_experts": EXPERTS, "top_k": TOP_K}
        try:
            check_intervention_fits(found, groups=(rule.groups, rule.groups_kept), **facts)
        except MoetraceError:
            continue
        tried += 1
        steering = steering_of(rule, static=False)
        bias = torch.from_numpy(2 * rng.normal(size=EXPERTS).astype(np.float32)) if rule.selection_bias else None
        begin(steering, "r", 9, loaded(steering, steps))
        steering.before_forward(StepRows(["r"], np.array([0]), np.array([8])))
        logits = torch.from_numpy(rng.normal(size=(8, EXPERTS)).astype(np.float32))
        steering.before_routing(0, logits)
        weights, ids = route(logits, rule, bias)
        steering.after_routing(
            0, lambda _, some, rule=rule, bias=bias: route(some, rule, bias), logits, logits, weights, ids, bias
        )
        for row in ids.tolist():
            assert set(order[:promoted]) <= set(row)
            assert not set(order[promoted:][:suppressed]) & set(row)
    assert tried > 100
