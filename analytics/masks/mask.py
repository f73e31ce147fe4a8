"""Making the moetrace mask from a selection; what a mask is stands in `moetrace.store.mask`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from moetrace.store.format.schema import FORMAT_VERSION

if TYPE_CHECKING:
    from moetrace.analytics.selection.selection import SelectedExpert, Selection
    from moetrace.store.format.records import RunRecord


def build_mask(
    selection: Selection, record: RunRecord, created: str, store_format: int = FORMAT_VERSION
) -> dict[str, Any]:
    """Return the mask of a selection as JSON values.

    - created: an ISO 8601 time
    - store_format: the format version of the store that the run is in

    Parameter counts are None where the run record does not know the size of an expert or of the model.
    """
    each, whole = (record.model.get(name) for name in ("parameters_per_expert", "parameters"))
    parameters = None if each is None else each * len(selection.experts)
    targets = list(selection.targets)
    return {
        "format": "moetrace-mask",
        "version": 1,
        "model": {
            **{name: record.model.get(name) for name in ("id", "revision", "config_sha256")},
            "moe_layers": sorted(record.moe_layers),
            "num_experts": record.num_experts,
            "top_k": record.top_k,
            "family": record.model.get("family"),
        },
        "strategy": {
            "name": selection.strategy,
            "target": targets if len(targets) > 1 else next(iter(targets), None),
            "parameters": dict(selection.parameters),
        },
        "experts": [_expert(item) for item in sorted(selection.experts, key=lambda item: (item.layer, item.expert))],
        "summary": {
            "experts": len(selection.experts),
            "pool": len(record.moe_layers) * record.num_experts,
            "parameters": parameters,
            "share_of_model": parameters / whole if parameters is not None and whole else None,
            "load": {"target": selection.load.target, "others": selection.load.others},
        },
        "provenance": {
            "store_format": store_format,
            "run": record.run,
            "run_sha256": record.sha256(),
            "languages": list(selection.languages),
            "tokens": selection.tokens,
            "moetrace_version": _installed_version(),
            "created": created,
        },
    }


def _expert(item: SelectedExpert) -> dict[str, Any]:
    metrics = {"specificity": item.specificity, "overlap": item.overlap}
    return {
        **{name: getattr(item, name) for name in ("layer", "expert", "role", "zone", "score", "count")},
        **{name: value for name, value in metrics.items() if value is not None},
    }


def _installed_version() -> str:
    try:
        return version("moetrace")
    except PackageNotFoundError:
        return "unknown"
