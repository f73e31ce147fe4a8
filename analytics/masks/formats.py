"""The files that a mask is exported as: one function a format, named as `--format` names it, from the mask alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.analytics.masks.expert_parameters import expert_parameters
from moetrace.store.checked_file import json_text, rounded_floats
from moetrace.store.intervention import InterventionError
from moetrace.store.mask import MaskError, mask_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moetrace.store.intervention import Intervention

RISE_PARAMETERS = ("budget", "alpha", "shallow", "middle", "zones")


def moetrace(mask: Mapping[str, Any]) -> str:
    """Return the text of the moetrace mask, version 1."""
    return mask_text(mask)


def rise(mask: Mapping[str, Any]) -> str:
    """Return the text of `selected_experts.json`, as RISE's own training reads it (2604.03592).

    Layers are decoder indices; a zone's boundaries are its first and last layer. Raises MaskError for a mask of another
    strategy, which has no zones, and for one that was written before masks carried what the format needs.
    """
    strategy, settings, experts = mask["strategy"], mask["strategy"]["parameters"], mask["experts"]
    if strategy["name"] != "rise":
        raise MaskError(f"--format rise holds a rise selection, not {strategy['name']}; use another format")
    lacking = [name for name in RISE_PARAMETERS if name not in settings]
    lacking += [name for name in ("zone", "specificity", "overlap") if any(name not in item for item in experts)]
    if lacking:
        raise MaskError(
            f"--format rise needs {', '.join(lacking)}, which this mask lacks; export it from its store again"
        )
    zones, target = settings["zones"], strategy["target"]
    document = {
        "method": "RISE",
        "model_type": mask["model"].get("family"),
        "target_language": target if isinstance(target, str) else "+".join(target or ()),
        "total_experts_selected": len(experts),
        "total_expert_pool": mask["summary"]["pool"],
        "zone_counts": {zone: sum(item["zone"] == zone for item in experts) for zone in zones},
        "zone_boundaries": {zone: [layers[0], layers[-1]] if layers else None for zone, layers in zones.items()},
        "config": {
            "num_experts": settings["budget"],
            "alpha": settings["alpha"],
            "shallow_ratio": 0.375,
            "middle_ratio": 0.25,
            "shallow_budget": settings["shallow"],
            "middle_budget": settings["middle"],
            "languages": mask["provenance"]["languages"],
        },
        "experts": [
            {name: item[name] for name in ("layer", "expert", "zone", "score", "specificity", "overlap")}
            for item in experts
        ],
    }
    return json_text(rounded_floats(document))


def esft(mask: Mapping[str, Any]) -> str:
    """Return the text of an expert config as ESFT's own training reads it (2407.01906).

    A key for every MoE layer; its experts by descending score, ties by expert, those of role shared last.
    """
    layers: dict[str, list[int]] = {str(layer): [] for layer in mask["model"]["moe_layers"]}
    for item in sorted(mask["experts"], key=_rank):
        layers[str(item["layer"])].append(item["expert"])
    return json_text({"experts": layers, "shared_experts": False, "non_expert_modules": False})


def target_experts(mask: Mapping[str, Any]) -> str:
    """Return the text of {"<layer>": [experts, ascending]}: the layers that have experts, and nothing else."""
    layers: dict[str, list[int]] = {}
    for item in sorted(mask["experts"], key=lambda item: (item["layer"], item["expert"])):
        layers.setdefault(str(item["layer"]), []).append(item["expert"])
    return json_text(layers)


def axolotl(mask: Mapping[str, Any]) -> str:
    """Return YAML for an axolotl config: `unfrozen_parameters` with an entry for each expert's part of each parameter.

    An entry is a pattern of a parameter's whole name and, in brackets, the index of the expert in its first dimension.
    Raises UnknownFamilyError where the names are not known, MaskError for a mask without experts: axolotl would train
    the whole model.
    """
    parameters = expert_parameters(mask["model"].get("family"))
    if not mask["experts"]:
        raise MaskError("--format axolotl: the mask has no experts, and axolotl trains everything where none is named")
    entries = [
        f"  - ^{name}$[{item['expert']}]"
        for item in sorted(mask["experts"], key=lambda item: (item["layer"], item["expert"]))
        for name in parameters.of_layer(item["layer"])
    ]
    count, name = len(mask["experts"]), mask["model"]["id"].encode("unicode_escape").decode()
    lines = [
        f"# {count} experts of {name}, named as transformers 5 names them.",
        "# Only gradients outside the brackets are zeroed: weight decay would still shrink the other experts.",
        "weight_decay: 0.0",
        "unfrozen_parameters:",
        *entries,
    ]
    return "\n".join(lines) + "\n"


def easysteer(mask: Mapping[str, Any]) -> str:
    """Return the text of an EasySteer router configuration that promotes every expert of the mask (its `activate`)."""
    cells = [(item["layer"], item["expert"]) for item in mask["experts"]]
    return _router_configuration(dict.fromkeys(cells, 1))


def easysteer_of_intervention(intervention: Intervention) -> str:
    """Return the text of an EasySteer router configuration that promotes and suppresses as an intervention does.

    Both set forced experts 0.01 above the highest or below the lowest logit. Raises InterventionError for shifts, and
    for an intervention of some tokens, which the request says there and not the file.
    """
    if intervention.soft or intervention.scale:
        raise InterventionError(
            f"{intervention.name}: --format easysteer holds promoted and suppressed experts, no soft or scale"
        )
    if intervention.scope != "all":
        raise InterventionError(
            f"{intervention.name}: --format easysteer cannot say which tokens are steered; make its scope all"
        )
    return _router_configuration(intervention.forced)


def _router_configuration(forced: Mapping[tuple[int, int], int]) -> str:
    layers: dict[str, dict[str, Any]] = {}
    for (layer, expert), force in sorted(forced.items()):
        found = layers.setdefault(str(layer), {"mode": "activate", "activate_ids": [], "deactivate_ids": []})
        found["activate_ids" if force > 0 else "deactivate_ids"].append(expert)
    return json_text({"layer_configs": layers})


FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "moetrace": moetrace,
    "rise": rise,
    "esft": esft,
    "target-experts": target_experts,
    "axolotl": axolotl,
    "easysteer": easysteer,
}


def _rank(item: Mapping[str, Any]) -> tuple[bool, bool, float, int]:
    score = item.get("score")
    return item["role"] == "shared", score is None, 0.0 if score is None else -score, item["expert"]
