"""The moetrace intervention, version 1: what is done to router logits while a model runs, read with checks.

With z the logits of a token in a layer, before softmax, selection bias and top-k, and s the strength of an expert e:

- soft: z_e + lambda s std(z), the standard deviation over the layer's experts (arXiv 2510.04694, eq. 4)
- promote: max(z) + EPSILON; suppress: min(z) - EPSILON (arXiv 2510.04694, eq. 5)
- scale: z_e + lambda s |z_e| (arXiv 2601.14050)

std is of the model's own logits, max and min of the shifted ones: soft and scale add up, then experts are forced.
`tracer.worker.intervening` applies it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.checked_file import FileKind, json_text, rounded_floats
from moetrace.store.errors import MoetraceError
from moetrace.store.mask import check_mask, in_spans, model_difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Cell = tuple[int, int]  # layer, expert

SHIFTS, FORCES = ("soft", "scale"), {"promote": 1, "suppress": -1}
MODES = (*SHIFTS, *FORCES)
SCOPES = ("all", "prompt", "generated")
EPSILON = 0.01
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class InterventionError(MoetraceError):
    """An intervention file is damaged, no intervention, contradicts itself, or is of another model."""


INTERVENTION = FileKind(
    noun="an intervention",
    schema=Path(__file__).with_name("intervention.schema.json"),
    error=InterventionError,
    long_lists=re.compile(r"\$\.steps\[\d+\]\.experts"),
)


@dataclass(frozen=True)
class Intervention:
    """What is done to some experts, added up.

    - soft, scale: (layer, expert) -> lambda s, the factor of std(z) and of |z_e|; none is 0
    - forced: (layer, expert) -> 1 promoted, -1 suppressed
    - model: what the file says of its model, as in a mask, or None
    """

    name: str
    scope: str
    soft: Mapping[Cell, float]
    scale: Mapping[Cell, float]
    forced: Mapping[Cell, int]
    model: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what is done: two interventions of one digest do the same, whatever they are called."""
        done = {
            part: sorted([*cell, value] for cell, value in getattr(self, part).items())
            for part in ("soft", "scale", "forced")
        }
        return hashlib.sha256(json.dumps([self.scope if any(done.values()) else None, done]).encode()).hexdigest()

    @property
    def cells(self) -> set[Cell]:
        """Every (layer, expert) that something is done to."""
        return {*self.soft, *self.scale, *self.forced}


def read_intervention(
    path: str | Path,
    *,
    mode: str | None = None,
    strength: float | None = None,
    scope: str | None = None,
    layers: Iterable[int] | None = None,
    name: str | None = None,
) -> Intervention:
    """Read an intervention, or a mask, whose experts are then steered by `mode` and, where it is a shift, `strength`.

    - strength: lambda of soft and scale; mode and strength are of masks only
    - scope, name: in place of the file's; a mask's are `all` and the file's name without its extension
    - layers: only experts of these layers are steered

    Raises InterventionError or MaskError, naming file and place, for what is neither or contradicts itself.
    """
    where = str(path)
    value = INTERVENTION.parse(path)
    if isinstance(value, dict) and value.get("format") == "moetrace-mask":
        value = _of_mask(value, where, mode, strength, _name_of(path))
    elif mode is not None or strength is not None:
        raise InterventionError(f"{where}: an intervention says itself what is done; a mode and a lambda are for masks")
    value = {**value, **{key: said for key, said in (("scope", scope), ("name", name)) if said is not None}}
    found = intervention_of(value, where)
    return found if layers is None else _of_layers(found, set(layers), where)


def is_intervention(value: Any) -> bool:
    """Tell whether JSON values say that they are an intervention; whether they are one, reading tells."""
    return isinstance(value, dict) and value.get("format") == "moetrace-intervention"


def intervention_of(value: Any, where: str) -> Intervention:
    """Return the intervention that JSON values describe; raise InterventionError for what is none."""
    INTERVENTION.check(value, where)
    soft: defaultdict[Cell, float] = defaultdict(float)
    scale: defaultdict[Cell, float] = defaultdict(float)
    forced: dict[Cell, int] = {}
    for number, step in enumerate(value["steps"]):
        place, mode = f"{where}, $.steps[{number}]", step["mode"]
        if (mode in SHIFTS) != ("lambda" in step):
            raise InterventionError(f"{place}: {mode} {'needs a' if mode in SHIFTS else 'has no'} lambda")
        seen = set()
        for index, item in enumerate(step["experts"]):
            cell, expert = (item["layer"], item["expert"]), f"layer {item['layer']}, expert {item['expert']}"
            at = f"{place}.experts[{index}]"
            if cell in seen:
                raise InterventionError(f"{at}: {expert} stands twice")
            seen.add(cell)
            if mode in SHIFTS:
                (soft if mode == "soft" else scale)[cell] += float(step["lambda"]) * float(item.get("strength", 1.0))
                continue
            if "strength" in item:
                raise InterventionError(f"{at}: {mode} has no strength")
            if forced.get(cell, FORCES[mode]) != FORCES[mode]:
                raise InterventionError(f"{at}: {expert} is both promoted and suppressed")
            forced[cell] = FORCES[mode]
    return Intervention(
        value["name"],
        value.get("scope", "all"),
        {cell: factor for cell, factor in sorted(soft.items()) if factor},
        {cell: factor for cell, factor in sorted(scale.items()) if factor},
        dict(sorted(forced.items())),
        value.get("model"),
    )


def intervention_text(value: Mapping[str, Any]) -> str:
    """Return an intervention's JSON values as the text of its file; raise InterventionError where they are none."""
    rounded = rounded_floats(value)
    intervention_of(rounded, "this intervention")
    return json_text(rounded)


def check_intervention_fits(
    intervention: Intervention,
    *,
    config_sha256: str | None,
    moe_layers: Sequence[int],
    num_experts: int,
    top_k: int,
    groups: tuple[int, int] = (1, 1),
) -> None:
    """Raise InterventionError where an intervention is of another model, or asks of a layer what no router can do.

    groups: of how many groups of experts a token's experts are chosen, and how many of those are kept
    """
    where = f"intervention {intervention.name}"
    if intervention.model is not None:
        found = model_difference(
            intervention.model,
            config_sha256=config_sha256,
            moe_layers=moe_layers,
            num_experts=num_experts,
            top_k=top_k,
        )
        if found:
            raise InterventionError(f"{where}: it is of {found}")
    for layer, expert in sorted(intervention.cells):
        if layer not in moe_layers:
            raise InterventionError(
                f"{where}: layer {layer} is none of the model's MoE layers, which are {in_spans(moe_layers)}"
            )
        if expert >= num_experts:
            raise InterventionError(f"{where}: layer {layer}, expert {expert}: a layer has {num_experts} experts")
    for layer in sorted({layer for layer, _ in intervention.forced}):
        of_layer = {expert: force for (at, expert), force in intervention.forced.items() if at == layer}
        problem = _impossible(of_layer, num_experts, top_k, *groups)
        if problem:
            raise InterventionError(f"{where}: layer {layer}: {problem}")


def _impossible(forced: Mapping[int, int], num_experts: int, top_k: int, groups: int, kept: int) -> str | None:
    """Return why a layer cannot choose all promoted experts and none of the suppressed ones, None where it can."""
    size = num_experts // groups
    promoted = [expert for expert, force in forced.items() if force > 0]
    suppressed = Counter(expert // size for expert, force in forced.items() if force < 0)
    if len(promoted) > top_k:
        return f"{len(promoted)} experts are promoted, the model chooses {top_k} for each token"
    wins = {expert // size for expert in promoted}
    if len(wins) > kept:
        return f"the promoted experts are of {len(wins)} groups, the model chooses from {kept} for each token"
    left = sorted(size - suppressed[group] for group in range(groups) if group not in wins)[: kept - len(wins)]
    if sum(left) + sum(size - suppressed[group] for group in wins) < top_k:
        return (
            f"with {sum(suppressed.values())} experts suppressed there may be fewer than the {top_k} that a token needs"
        )
    return None


def _of_mask(
    mask: Mapping[str, Any], where: str, mode: str | None, strength: float | None, name: str
) -> dict[str, Any]:
    """Return a mask's experts as the JSON values of an intervention."""
    check_mask(mask, where)
    if mode is None:
        raise InterventionError(f"{where}: a mask says which experts, not what is done to them; give a mode")
    if mode in SHIFTS and strength is None:
        raise InterventionError(f"{where}: {mode} needs a lambda")
    if mode in FORCES and strength is not None:
        raise InterventionError(f"{where}: {mode} has no lambda")
    experts = [{"layer": item["layer"], "expert": item["expert"]} for item in mask["experts"]]
    step: dict[str, Any] = {"mode": mode, "experts": experts}
    if strength is not None:
        step["lambda"] = strength
    return {
        "format": "moetrace-intervention",
        "version": 1,
        "name": name,
        "model": mask["model"],
        "steps": [step],
    }


def _name_of(path: str | Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", Path(path).stem).lstrip("_.-")[:64]
    return stem or "mask"


def _of_layers(found: Intervention, layers: set[int], where: str) -> Intervention:
    def inside(cells: Mapping[Cell, Any]) -> dict[Cell, Any]:
        return {cell: value for cell, value in cells.items() if cell[0] in layers}

    chosen = replace(found, soft=inside(found.soft), scale=inside(found.scale), forced=inside(found.forced))
    if found.cells and not chosen.cells:
        raise InterventionError(f"{where}: no expert of it is in layers {in_spans(layers)}")
    return chosen
