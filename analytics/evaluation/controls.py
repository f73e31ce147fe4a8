"""Controls of an intervention: as much is done, to other experts.

An intervention does two things to a model: it changes the routing at all, and it favours these experts. A control does
the first without the second.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moetrace.analytics.selection.matching import draw_of_seed, nearest_set, order_of_seed
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import duckdb

    from moetrace.store.intervention import Cell, Intervention

    Fits = Callable[[Intervention], bool]  # whether the model can be steered so

ATTEMPTS = 64
WITHOUT = "leave the control 'outside' out"
SLACK = 0.05


@dataclass(frozen=True)
class Controlled:
    """What controls are made from.

    - decisions: (layer, expert) -> how often it was chosen where nobody steered
    - fits: tells whether the model can be steered by an intervention
    """

    decisions: Mapping[Cell, int]
    moe_layers: Sequence[int]
    num_experts: int
    fits: Fits

    def possible(self, control: str, intervention: Intervention) -> bool:
        """Tell whether there is such a control: none outside its layers where it leaves too few alone."""
        layers = {layer for layer, _ in intervention.cells}
        return control != "outside" or 2 * len(layers) <= len(self.moe_layers)

    def control(self, control: str, seed: int, intervention: Intervention) -> Intervention:
        """Return a control, `random`, `load` or `outside`; raise MoetraceError where none can be made."""
        if control == "random":
            return random_experts(intervention, self.num_experts, seed, self.fits)
        if control == "load":
            return experts_of_same_load(intervention, self.decisions, self.num_experts, seed, self.fits)
        return outside_its_layers(intervention, self.moe_layers, self.fits)


def controlled_in(
    connection: duckdb.DuckDBPyConnection, run: str, moe_layers: Sequence[int], num_experts: int, fits: Fits
) -> Controlled:
    """Return what controls are made from, with the decisions of a run of a store, over all its languages."""
    query = "select layer, expert, sum(count)::bigint from usage where run = ? group by all"
    rows = connection.execute(query, [run]).fetchall()
    return Controlled({(layer, expert): count for layer, expert, count in rows}, moe_layers, num_experts, fits)


def random_experts(intervention: Intervention, num_experts: int, seed: int, fits: Fits) -> Intervention:
    """Return the same, done to as many other experts of each layer, drawn at random.

    None of the intervention's own, where the layer has enough others. The draw is the order of the SHA-256 of
    "seed:attempt:layer:expert", the same on every machine; drawn again where the model cannot be steered so, as where
    experts are chosen by groups. Raises MoetraceError where no draw of 64 is possible.
    """

    def drawn(attempt: int) -> Intervention:
        moved: dict[Cell, Cell] = {}
        for layer, own in _by_layer(intervention).items():
            order = _others(own, order_of_seed(f"{seed}:{attempt}", layer, num_experts))
            moved |= {(layer, one): (layer, other) for one, other in zip(own, order, strict=False)}
        return _moved(intervention, moved, f"random-{seed}")

    return _first_fitting(intervention, "random", drawn, fits)


def experts_of_same_load(
    intervention: Intervention, decisions: Mapping[Cell, int], num_experts: int, seed: int, fits: Fits
) -> Intervention:
    """Return the same, done to as many other experts of each layer that take as many of the routing decisions.

    decisions: (layer, expert) -> how often it was chosen. The sets whose loads are nearest, within a twentieth of the
    load, are as likely as each other (`matching.nearest_set`); of the experts that take a set's places the busiest
    stands for the busiest. Raises MoetraceError as `random_experts` does.
    """

    def drawn(attempt: int) -> Intervention:
        moved: dict[Cell, Cell] = {}
        for layer, own in _by_layer(intervention).items():
            others = _others(own, order_of_seed(f"{seed}:{attempt}", layer, num_experts))
            wanted = sum(decisions.get((layer, one), 0) for one in own)
            numbers = [decisions.get((layer, one), 0) for one in others]
            draw = draw_of_seed(f"{seed}:{attempt}", layer)
            places = nearest_set(numbers, len(own), wanted, slack=int(SLACK * wanted), draw=draw)

            def busiest(experts: Sequence[int], layer: int = layer) -> list[int]:
                return sorted(experts, key=lambda e: (-decisions.get((layer, e), 0), e))

            chosen = busiest([others[place] for place in places])
            moved |= {(layer, one): (layer, other) for one, other in zip(busiest(own), chosen, strict=True)}
        return _moved(intervention, moved, f"load-{seed}")

    return _first_fitting(intervention, "load", drawn, fits)


def outside_its_layers(intervention: Intervention, moe_layers: Sequence[int], fits: Fits) -> Intervention:
    """Return the same, done to the experts of the same numbers in the layers that the intervention leaves alone.

    Its layers, in their order, are spread over those evenly, the outermost onto the outermost. Raises MoetraceError
    where it leaves fewer layers alone than it has, or the model cannot be steered so.
    """
    own = sorted({layer for layer, _ in intervention.cells})
    rest = [layer for layer in moe_layers if layer not in own]
    if len(rest) < len(own):
        raise MoetraceError(
            f"intervention {intervention.name}: it leaves {len(rest)} layers alone, and has {len(own)}; {WITHOUT}"
        )
    last = max(len(own) - 1, 1)
    places = {layer: rest[(at * (len(rest) - 1) + last // 2) // last] for at, layer in enumerate(own)}
    moved = {(layer, expert): (places[layer], expert) for layer, expert in intervention.cells}
    found = _moved(intervention, moved, "outside-0")
    if not fits(found):
        raise MoetraceError(
            f"intervention {intervention.name}: its experts' numbers cannot be steered in other layers; {WITHOUT}"
        )
    return found


def _first_fitting(
    intervention: Intervention, control: str, drawn: Callable[[int], Intervention], fits: Fits
) -> Intervention:
    for attempt in range(ATTEMPTS):
        found = drawn(attempt)
        if fits(found):
            return found
    raise MoetraceError(
        f"intervention {intervention.name}: none of {ATTEMPTS} draws of other experts can be steered so; "
        f"leave the control '{control}' out"
    )


def _by_layer(intervention: Intervention) -> dict[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for layer, expert in sorted(intervention.cells):
        found[layer].append(expert)
    return found


def _others(own: Sequence[int], order: Sequence[int]) -> list[int]:
    """Return the experts that a control can have, in their order: not its own, unless the others are too few."""
    others = [expert for expert in order if expert not in own]
    return others if len(others) >= len(own) else list(order)


def _moved(intervention: Intervention, moved: Mapping[Cell, Cell], control: str) -> Intervention:
    def of(cells: Mapping[Cell, Any]) -> dict[Cell, Any]:
        return dict(sorted((moved[cell], value) for cell, value in cells.items()))

    return replace(
        intervention,
        name=f"{intervention.name}.{control}",
        soft=of(intervention.soft),
        scale=of(intervention.scale),
        forced=of(intervention.forced),
    )
