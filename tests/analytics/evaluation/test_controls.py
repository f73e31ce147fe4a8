"""Controls do as much as what they are for, to other experts."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from moetrace.analytics.evaluation.controls import (
    Controlled,
    experts_of_same_load,
    outside_its_layers,
    random_experts,
)
from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import Intervention, intervention_of

EXPERTS, LAYERS = 16, tuple(range(8))


def made(*steps: dict[str, Any]) -> Intervention:
    return intervention_of({"format": "moetrace-intervention", "version": 1, "name": "x", "steps": list(steps)}, "x")


def step(mode: str, cells: list[tuple[int, int]], **more: Any) -> dict[str, Any]:
    return {"mode": mode, "experts": [{"layer": layer, "expert": expert} for layer, expert in cells], **more}


MIXED = made(
    step("promote", [(3, 1), (4, 2)]),
    step("suppress", [(3, 5), (4, 6), (4, 7)]),
    step("soft", [(3, 1), (3, 9)], **{"lambda": 0.5}),
    step("scale", [(4, 2)], **{"lambda": -1.0}),
)
# In each layer expert e is chosen 100 (e + 1) times, but e = 10 to 15 as often as 0 to 5.
DECISIONS = {(layer, expert): 100 * (expert % 10 + 1) for layer in LAYERS for expert in range(EXPERTS)}


def anything(_: Intervention) -> bool:
    return True


def by_layer(found: Intervention, part: str) -> dict[int, list[Any]]:
    values: dict[int, list[Any]] = {}
    for (layer, _), value in getattr(found, part).items():
        values.setdefault(layer, []).append(value)
    return {layer: sorted(mine) for layer, mine in values.items()}


@pytest.mark.parametrize("seed", range(5))
def test_as_much_is_done_to_other_experts_of_each_layer(seed: int) -> None:
    found = random_experts(MIXED, EXPERTS, seed, anything)
    loaded = experts_of_same_load(MIXED, DECISIONS, EXPERTS, seed, anything)
    for one, name in ((found, f"x.random-{seed}"), (loaded, f"x.load-{seed}")):
        assert one.name == name
        assert not one.cells & MIXED.cells
        assert len(one.cells) == len(MIXED.cells)
        for part in ("soft", "scale", "forced"):
            assert by_layer(one, part) == by_layer(MIXED, part)
    assert random_experts(MIXED, EXPERTS, seed, anything) == found


def test_draws_differ_and_the_first_is_as_ever() -> None:
    found = [random_experts(MIXED, EXPERTS, seed, anything).cells for seed in range(5)]
    assert len({frozenset(cells) for cells in found}) == 5
    one = random_experts(made(step("promote", [(3, 1)])), EXPERTS, 0, anything)
    digests = {expert: hashlib.sha256(f"0:0:3:{expert}".encode()).digest() for expert in range(EXPERTS) if expert != 1}
    assert set(one.forced) == {(3, min(digests, key=digests.__getitem__))} == {(3, 15)}  # the same on every machine


def test_the_load_is_as_near_as_it_can_be() -> None:
    promoted = made(step("promote", [(3, 0), (3, 4)]))  # 100 + 500 decisions; experts 10 and 14 have the same
    found = experts_of_same_load(promoted, DECISIONS, EXPERTS, 0, anything)
    assert sum(DECISIONS[cell] for cell in found.cells) == 600
    shifted = made(step("soft", [(3, 0)], **{"lambda": 1.0}), step("soft", [(3, 4)], **{"lambda": 2.0}))
    moved = experts_of_same_load(shifted, DECISIONS, EXPERTS, 0, anything).soft
    (busy, strong), (idle, weak) = sorted(moved.items(), key=lambda entry: -DECISIONS[entry[0]])
    assert (strong, weak) == (2.0, 1.0), "what is done to the busier expert is done to the busier one"
    assert DECISIONS[busy] > DECISIONS[idle]


def test_outside_its_layers_the_same_numbers_are_steered() -> None:
    found = outside_its_layers(MIXED, LAYERS, anything)
    assert found.name == "x.outside-0"
    assert {layer for layer, _ in found.cells} == {0, 7}
    assert found.forced == {(0, 1): 1, (0, 5): -1, (7, 2): 1, (7, 6): -1, (7, 7): -1}
    assert (found.soft, found.scale) == ({(0, 1): 0.5, (0, 9): 0.5}, {(7, 2): -1.0})
    four = made(step("promote", [(layer, 0) for layer in (2, 3, 4, 5)]))
    assert {layer for layer, _ in outside_its_layers(four, LAYERS, anything).cells} == {0, 1, 6, 7}
    one = made(step("promote", [(3, 0)]))
    assert {layer for layer, _ in outside_its_layers(one, LAYERS, anything).cells} == {0}
    with pytest.raises(MoetraceError, match="it leaves 3 layers alone, and has 5"):
        outside_its_layers(made(step("promote", [(layer, 0) for layer in range(5)])), LAYERS, anything)


def test_a_layer_with_too_few_others_draws_from_all() -> None:
    most = made(step("suppress", [(3, expert) for expert in range(12)]))
    found = random_experts(most, EXPERTS, 0, anything)
    assert len(found.cells) == 12
    assert found.cells != most.cells


def test_what_the_model_cannot_do_is_drawn_again_or_refused() -> None:
    def first_half(found: Intervention) -> bool:
        return all(expert < EXPERTS // 2 for _, expert in found.forced)

    two = made(step("promote", [(3, 1), (3, 2)]))
    assert first_half(random_experts(two, EXPERTS, 0, first_half))
    with pytest.raises(MoetraceError, match="none of 64 draws of other experts can be steered so; leave the control"):
        random_experts(two, EXPERTS, 0, lambda _: False)
    with pytest.raises(MoetraceError, match="cannot be steered in other layers"):
        outside_its_layers(two, LAYERS, lambda _: False)


def test_a_control_is_made_by_its_name() -> None:
    controlled = Controlled(DECISIONS, LAYERS, EXPERTS, anything)
    assert controlled.control("random", 1, MIXED) == random_experts(MIXED, EXPERTS, 1, anything)
    assert controlled.control("load", 1, MIXED) == experts_of_same_load(MIXED, DECISIONS, EXPERTS, 1, anything)
    assert controlled.control("outside", 0, MIXED) == outside_its_layers(MIXED, LAYERS, anything)
    assert controlled.possible("outside", MIXED)
    assert not controlled.possible("outside", made(step("promote", [(layer, 0) for layer in range(5)])))
