"""The files that a selection is exported as: one function a format, named as `--format` names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analytics.mask import build_mask, json_text, mask_text, rounded_floats
from analytics.selection import SelectionError

if TYPE_CHECKING:
    from analytics.selection import SelectedExpert, Selection
    from store import RunRecord


def moetrace(selection: Selection, record: RunRecord, created: str) -> str:
    """Return the text of the moetrace mask, version 1."""
    return mask_text(build_mask(selection, record, created))


def rise(selection: Selection, record: RunRecord, created: str) -> str:  # noqa: ARG001  # the file has no time
    """Return the text of `selected_experts.json`, as RISE's own training reads it (2604.03592).

    Layers are decoder indices; a zone's boundaries are its first and last layer. Raises SelectionError for a selection
    of another strategy, which has no zones.
    """
    if selection.strategy != "rise":
        raise SelectionError(f"--format rise holds a rise selection, not {selection.strategy}; use another format")
    settings = selection.parameters
    document = {
        "method": "RISE",
        "model_type": record.model.get("family"),
        "target_language": "+".join(selection.targets),
        "total_experts_selected": len(selection.experts),
        "total_expert_pool": len(record.moe_layers) * record.num_experts,
        "zone_counts": {zone: sum(item.zone == zone for item in selection.experts) for zone in selection.zones},
        "zone_boundaries": {
            zone: [layers[0], layers[-1]] if layers else None for zone, layers in selection.zones.items()
        },
        "config": {
            "num_experts": settings["budget"],
            "alpha": settings["alpha"],
            "shallow_ratio": 0.375,
            "middle_ratio": 0.25,
            "shallow_budget": settings["shallow"],
            "middle_budget": settings["middle"],
            "languages": list(selection.languages),
        },
        "experts": [_rise_expert(item) for item in selection.experts],
    }
    return json_text(rounded_floats(document))


FORMATS = {"moetrace": moetrace, "rise": rise}


def _rise_expert(item: SelectedExpert) -> dict[str, Any]:
    return {
        "layer": item.layer,
        "expert": item.expert,
        "zone": item.zone,
        "score": item.score,
        "specificity": item.specificity,
        "overlap": item.overlap,
    }
