"""A control: as many experts of each layer as another mask has, drawn at random."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.names import languages_of
from moetrace.analytics.selection.run_facts import model_of
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert
from moetrace.store.mask import check_mask_fits

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb


def random(
    connection: duckdb.DuckDBPyConnection, run: str, *, like: Mapping[str, Any], seed: int = 0, where: str = "the mask"
) -> Selection:
    """Draw, in each layer, as many experts as the mask `like` has there, in the same roles and zones.

    Every expert of a layer is as likely as any other, those of `like` included. The draw is the experts with the least
    SHA-256 of "seed:layer:expert", so that a seed means the same on every machine and under every version.

    Raises UnknownNameError for a run that is not in the store, MaskError, naming `where`, for a mask of another model
    than the run's, and SelectionError for a mask without experts.
    """
    languages_of(connection, run, ())
    model = model_of(connection, run)
    check_mask_fits(like, **asdict(model), where=where)
    if not like["experts"]:
        raise SelectionError(f"{where} has no experts, so neither would a control")
    of_layer: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for item in like["experts"]:
        of_layer[item["layer"]].append(item)
    experts = []
    for layer, imitated in sorted(of_layer.items()):
        draws = sorted((_draw(seed, layer, expert), expert) for expert in range(model.num_experts))
        reason = f"layer {layer}: one of {len(imitated)} drawn with seed {seed}"
        experts += [
            SelectedExpert(layer, expert, item["role"], item.get("zone"), reason=reason)
            for (_, expert), item in zip(draws, imitated, strict=False)
        ]
    target = like["strategy"]["target"]
    return Selection(
        strategy="random",
        run=run,
        targets=() if target is None else (target,) if isinstance(target, str) else tuple(target),
        languages=(),
        tokens=0,
        parameters={"seed": seed, "like": _identity(like)},
        experts=by_layer_and_expert(experts),
        zones={},
    )


def _draw(seed: int, layer: int, expert: int) -> bytes:
    return hashlib.sha256(f"{seed}:{layer}:{expert}".encode()).digest()


def _identity(mask: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells which mask it was, wherever its file lies."""
    strategy, provenance = mask["strategy"], mask["provenance"]
    cells = sorted((item["layer"], item["expert"]) for item in mask["experts"])
    return {
        "strategy": strategy["name"],
        "run": provenance["run"],
        "experts": len(cells),
        "experts_sha256": hashlib.sha256(repr(cells).encode()).hexdigest(),
    }
