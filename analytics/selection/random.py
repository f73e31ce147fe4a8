"""A control: as many experts of each layer as another mask has, drawn at random, or drawn to take the same load."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.names import languages_of
from moetrace.analytics.selection.checks import check_finite
from moetrace.analytics.selection.load import decisions_of, share_of, with_counts
from moetrace.analytics.selection.matching import draw_of_seed, nearest_set, order_of_seed
from moetrace.analytics.selection.ranking import as_decimal
from moetrace.analytics.selection.run_facts import model_of, require_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert
from moetrace.store.mask import check_mask_fits, mask_targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

    Cell = tuple[int, int]  # layer, expert

MATCHES = ("count", "load")
SLACK = 0.05
MOST_NAMED = 6


@dataclass(frozen=True)
class _Imitated:
    """The mask that a control is for, and what its load is counted in.

    - of_layer: its experts by layer, as the mask has them
    - languages: whose load: the mask's targets, or what it looked at where it has none
    - decisions: theirs by (layer, expert), in this run; empty where it does not know them
    """

    of_layer: Mapping[int, Sequence[Mapping[str, Any]]]
    languages: tuple[str, ...]
    decisions: Mapping[Cell, int]

    @property
    def cells(self) -> list[Cell]:
        return [(item["layer"], item["expert"]) for items in self.of_layer.values() for item in items]


def random(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    *,
    like: Mapping[str, Any],
    match: str = "count",
    exclude: Mapping[str, Mapping[str, Any]] | None = None,
    slack: float = SLACK,
    seed: int = 0,
    where: str = "the mask",
) -> Selection:
    """Draw, in each layer, as many experts as the mask `like` has there, in the same roles and zones.

    - match: `count`, every expert of a layer is as likely as any other, those of `like` included; `load`, experts that
      together take as many of the routing decisions of the mask's target as those of `like` do, or as nearly as the
      layer's experts allow
    - exclude: masks whose experts are not drawn, by what errors call them
    - slack: of `load`, how much further than the nearest a load may be from that of `like`, as a part of it: the room
      that is left to chance. The nearest 16 loads within it are as likely as each other; 0 leaves the nearest alone
      (see `nearest_set`).
    - seed: the order of a layer's experts is that of the SHA-256 of "seed:layer:expert", so that a seed means the same
      on every machine and under every version

    The mask's parameters say which load was asked for and which was got, for the mask's targets (all languages it
    looked at where it has none), as this run has them.

    Raises UnknownNameError for a run that is not in the store, and, to match load, for a target that the run lacks;
    MaskError, naming `where` or the mask in `exclude`, for a mask of another model than the run's; SelectionError for a
    mask without experts, for a layer with too few experts left, and, to match load, for a run without usage.
    """
    if match not in MATCHES:
        raise SelectionError(f"match '{match}': pass one of {', '.join(MATCHES)} with --match")
    check_finite(slack=slack)
    if not 0 <= slack <= 1:
        raise SelectionError(f"slack {slack:g}: pass 0 to 1 with --slack")
    traced = languages_of(connection, run)
    model = model_of(connection, run)
    excluded: set[Cell] = set()
    for name, mask in {where: like, **(exclude or {})}.items():
        check_mask_fits(mask, **asdict(model), where=name)
        if name in (exclude or {}):
            excluded |= {(item["layer"], item["expert"]) for item in mask["experts"]}
    if not like["experts"]:
        raise SelectionError(f"{where} has no experts, so neither would a control")
    imitated = _imitated(connection, run, like, traced, match)
    experts: list[SelectedExpert] = []
    for layer, items in sorted(imitated.of_layer.items()):
        order = [expert for expert in order_of_seed(seed, layer, model.num_experts) if (layer, expert) not in excluded]
        if len(order) < len(items):
            raise SelectionError(
                f"layer {layer}: {where} has {len(items)} experts there, and only {len(order)} of {model.num_experts} "
                "are left to draw from; --exclude fewer masks"
            )
        reason = f"layer {layer}: one of {len(items)} drawn with seed {seed}"
        if match == "load":
            order = _of_same_load(imitated, layer, order, slack, seed)
            reason += ", together of nearly the same load"
        experts += [
            SelectedExpert(layer, expert, item["role"], item.get("zone"), reason=reason)
            for expert, item in zip(order, items, strict=False)
        ]
    load = _loads(imitated, experts, layers=match == "load")
    languages = imitated.languages if match == "load" else ()
    selection = Selection(
        strategy="random",
        run=run,
        targets=tuple(mask_targets(like)),
        languages=languages,
        tokens=sum(traced[lang] for lang in languages),
        parameters={
            "seed": seed,
            "match": match,
            **({"slack": slack} if match == "load" else {}),
            "like": _identity(like),
            "exclude": [_identity(mask) for mask in (exclude or {}).values()],
            "load": load,
        },
        experts=by_layer_and_expert(experts),
        zones={},
        notes=_notes(load, imitated.languages),
    )
    return with_counts(connection, selection, like["provenance"]["languages"])


def _imitated(
    connection: duckdb.DuckDBPyConnection, run: str, like: Mapping[str, Any], traced: Mapping[str, int], match: str
) -> _Imitated:
    of_layer: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for item in like["experts"]:
        of_layer[item["layer"]].append(item)
    targets = mask_targets(like)
    looked_at = [lang for lang in like["provenance"]["languages"] if lang in traced]
    languages = tuple(sorted(targets or looked_at or traced))
    if match == "load":
        languages_of(connection, run, languages)
    known = set(languages) <= set(traced)
    decisions = decisions_of(connection, run, languages) if known else {}
    if match == "load":
        require_usage(list(decisions), run)
    return _Imitated(of_layer, languages, decisions)


def _of_same_load(imitated: _Imitated, layer: int, order: Sequence[int], slack: float, seed: int) -> list[int]:
    """Return as many of the experts in `order` as are imitated in this layer, of nearly their decisions."""
    items = imitated.of_layer[layer]
    wanted = sum(imitated.decisions[layer, item["expert"]] for item in items)
    numbers = [imitated.decisions[layer, expert] for expert in order]
    draw = draw_of_seed(seed, layer)
    places = nearest_set(numbers, len(items), wanted, slack=int(as_decimal(slack) * wanted), draw=draw)
    return [order[place] for place in places]


def _loads(imitated: _Imitated, experts: Sequence[SelectedExpert], *, layers: bool) -> dict[str, Any] | None:
    """Return the load that was asked for and got, over all layers and, `layers`, of each; None where nobody knows.

    Of a layer it is the share of that layer's decisions.
    """
    drawn = [(item.layer, item.expert) for item in experts]
    asked, got = share_of(imitated.decisions, imitated.cells), share_of(imitated.decisions, drawn)
    if asked is None:
        return None
    of_layers = []
    for layer in sorted(imitated.of_layer) if layers else ():
        decisions = {cell: count for cell, count in imitated.decisions.items() if cell[0] == layer}
        theirs, ours = (
            share_of(decisions, [cell for cell in cells if cell[0] == layer]) for cells in (imitated.cells, drawn)
        )
        of_layers.append({"layer": layer, "asked": theirs, "got": ours})
    return {"asked": asked, "got": got, **({"layers": of_layers} if layers else {})}


def _notes(load: Mapping[str, Any] | None, languages: Sequence[str]) -> tuple[str, ...]:
    if load is None:
        return ()
    whose = ", ".join(languages) if len(languages) <= MOST_NAMED else f"{len(languages)} languages"
    note = f"load of {whose}: {load['got']:.4f}, that of the mask it is a control for {load['asked']:.4f}"
    known = [found for found in load.get("layers", ()) if found["asked"] is not None]
    if known:
        widest = max(known, key=lambda found: abs(found["got"] - found["asked"]))
        note += f"; furthest apart in layer {widest['layer']}: {widest['got']:.4f} and {widest['asked']:.4f}"
    return (note,)


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
