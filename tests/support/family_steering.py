"""Steers an engine of any family, and compares every layer of every token with the formulas on its routers' logits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import intervention_of
from moetrace.tracer.engine.commands import tell_workers
from moetrace.tracer.steering.attach import check_fits, entries_of
from moetrace.tracer.worker import STEER_KEY
from moetrace.tracer.worker.steering import Steering
from tests.reference import steering as reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.plan.shards import PlannedShard

TIE = 1e-6


def steps_of(layers: Sequence[int], num_experts: int, top_k: int) -> list[dict[str, Any]]:
    """Steps of every mode, in every layer: as many promoted experts as a token has, two at most, from far apart."""
    promoted = [0, num_experts - 1][: min(top_k, 2)]
    experts = {"promote": promoted, "suppress": [1], "soft": [2], "scale": [num_experts - 2]}
    factors = {"soft": 1.5, "scale": 0.7}
    return [
        {
            "mode": mode,
            "experts": [{"layer": layer, "expert": expert} for layer in layers for expert in chosen],
            **({"lambda": factors[mode]} if mode in factors else {}),
        }
        for mode, chosen in experts.items()
    ]


def steer(engine: TracedEngine, planned: PlannedShard) -> dict[str, Any]:
    """Run a shard steered; return how its routing compares with the formulas, or `error` where it is refused.

    - rows: of all layers; sets_equal: the share whose experts are those of the formulas, or others tied with them
    - promoted, suppressed: the share of rows that have every promoted expert, and any suppressed one
    - weight_error: largest relative difference; None for SparseMixer
    - as_before: whether the same texts, unsteered after that, are routed as they were before
    """
    facts = engine.facts
    steps = steps_of(engine.moe_layers, facts.num_experts, facts.top_k)
    value = {"format": "moetrace-intervention", "version": 1, "name": "all-modes", "steps": steps}
    intervention = intervention_of(value, "all-modes")
    (before,) = engine.trace([planned])
    try:
        check_fits(intervention, facts)
        tell_workers(engine.llm, "install_steering", asdict(facts.rule))
    except MoetraceError as error:
        return {"error": str(error)}
    tell_workers(engine.llm, "steering_load", *entries_of(intervention))
    own: dict[int, np.ndarray] = {}
    before_routing = Steering.before_routing

    def listen(self: Steering, index: int, logits: Any) -> None:
        own[index] = logits.float().numpy().copy()
        before_routing(self, index, logits)

    core = engine.llm.llm_engine
    add_request = core.add_request

    def add_steered(name: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> str:
        params.extra_args = {**params.extra_args, STEER_KEY: intervention.digest}
        return str(add_request(name, prompt, params, *args, **kwargs))

    Steering.before_routing, core.add_request = listen, add_steered
    try:
        tell_workers(engine.llm, "probe")
        list(engine.trace([planned]))
    finally:
        Steering.before_routing = before_routing
        del core.add_request
    (evidence,) = tell_workers(engine.llm, "evidence")
    tell_workers(engine.llm, "uninstall_steering")
    (after,) = engine.trace([planned])
    same = np.array_equal(before.experts, after.experts) and np.array_equal(before.weights, after.weights)
    return {"error": None, "as_before": bool(same), **compared(own, evidence, steps, facts.rule)}


def compared(own: dict[int, np.ndarray], evidence: Any, steps: list[dict[str, Any]], rule: Any) -> dict[str, Any]:
    """Compare the routing of a step with the formulas on the logits that its routers made."""
    rows = equal = promoted = suppressed = 0
    errors = [0.0]
    for index, (layer, logits, experts, weights, bias) in enumerate(evidence):
        forced = reference.forces(layer, steps)
        wanted = {expert for expert, force in forced.items() if force > 0}
        for row in range(len(experts)):
            steered = reference.steered(own[index][row], layer, steps)
            np.testing.assert_allclose(logits[row], steered, rtol=1e-4, atol=1e-4)
            choice = reference.choice_scores(steered, forced, rule, bias)
            mine = set(experts[row].tolist())
            left = max(choice[expert] for expert in range(len(choice)) if expert not in mine)
            rows += 1
            equal += min(choice[expert] for expert in mine) >= left - TIE
            promoted += wanted <= mine
            suppressed += any(forced.get(expert, 0) < 0 for expert in mine)
            if not rule.sparsemixer:
                expected = reference.weights(steered, mine, rule)
                found = dict(zip(experts[row].tolist(), weights[row].tolist(), strict=True))
                errors += [abs(found[expert] / want - 1) for expert, want in expected.items()]
    return {
        "rows": rows,
        "sets_equal": equal / rows,
        "promoted": promoted / rows,
        "suppressed": suppressed / rows,
        "weight_error": None if rule.sparsemixer else max(errors),
    }
