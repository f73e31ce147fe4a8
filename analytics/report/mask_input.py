"""The mask a report is given: read, checked against the run it is shown with, and told in words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from moetrace.store.mask import check_mask, check_mask_fits, mask_targets, read_mask

if TYPE_CHECKING:
    from moetrace.store.format.records import RunRecord

_TYPES = (pl.Int64, pl.Int64, pl.String, pl.String, pl.Float64, pl.Int64)
COLUMNS = dict(zip(("layer", "expert", "role", "zone", "score", "count"), _TYPES, strict=True))
SETTINGS = (  # parameters that are options of the same name
    *("reference", "budget", "per_layer", "alpha", "shallow", "middle", "min_count", "shrinkage"),
    *("layers", "shared", "parent", "score", "p", "against", "tau"),
)
COUNTED = ("rise", "gap", "top-k")  # strategies that have --min-count
REPEATABLE = ("rise", "gap", "top-p", "top-k", "task")  # strategies that need nothing but the store
MOST_ITEMS = 6


def fitting_mask(mask: Mapping[str, Any] | str | Path, record: RunRecord) -> dict[str, Any]:
    """Return the mask; raise MaskError where it is not valid, or is a mask of another model than the run's."""
    if isinstance(mask, str | Path):
        found, where = read_mask(mask), str(mask)
    else:
        found, where = dict(mask), "the mask"
        check_mask(found, where)
    check_mask_fits(
        found,
        config_sha256=record.model.get("config_sha256"),
        moe_layers=record.moe_layers,
        num_experts=record.num_experts,
        top_k=record.top_k,
        where=where,
    )
    return found


def mask_frame(mask: Mapping[str, Any]) -> pl.DataFrame:
    """Return the mask's experts: layer, expert, role, zone, score, count."""
    rows = [{column: entry.get(column) for column in COLUMNS} for entry in mask["experts"]]
    return pl.DataFrame(rows, schema=COLUMNS).with_columns(pl.col("zone").fill_null("none"))


def mask_facts(mask: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the strategy, its settings and the summary as (name, value)."""
    strategy, summary = mask["strategy"], mask["summary"]
    found = [("Strategy", str(strategy["name"]))]
    if mask_targets(mask):
        found.append(("Target", ", ".join(mask_targets(mask))))
    found.append(("Experts", f"{summary['experts']:,} of {summary['pool']:,}"))
    if summary["parameters"] is not None:
        found.append(("Parameters", f"{summary['parameters']:,}"))
    if summary["share_of_model"] is not None:
        found.append(("Share of the model", f"{summary['share_of_model']:.2%}"))
    found += [(name, f"{share:.1%}") for name, share in _loads(mask)]
    found += [
        (name.replace("_", " ").capitalize(), _plain(value))
        for name, value in strategy["parameters"].items()
        if value not in (None, [], {}) and name != "load"
    ]
    return tuple(found)


def _loads(mask: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the loads that the mask tells of, by name; of older masks none."""
    load = mask["summary"].get("load") or {}
    named = {"Load of the target": load.get("target"), "Load of the other languages": load.get("others")}
    asked = mask["strategy"]["parameters"].get("load")
    if isinstance(asked, Mapping):
        named["Load asked for"] = asked.get("asked")
    return [(name, share) for name, share in named.items() if isinstance(share, int | float)]


def mask_command(mask: Mapping[str, Any]) -> str | None:
    """Return a command that selects the mask again, as far as the mask tells, or None."""
    strategy, run = mask["strategy"], mask["provenance"]["run"]
    if strategy["name"] not in REPEATABLE:
        return None
    words = ["moetrace", "export", strategy["name"], "STORE", "--run", str(run)]
    for target in mask_targets(mask):
        words += ["--target", target]
    for name in SETTINGS:
        value = strategy["parameters"].get(name)
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            words += [f"--{name.replace('_', '-')}", str(item)]
    if strategy["name"] in COUNTED and "min_count" not in strategy["parameters"]:
        words += ["--min-count", "0"]  # an older mask, of when there was no such rule
    return shlex.join([*words, "-o", "mask.json"])


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        shown = ", ".join(_plain(item) for item in value[:MOST_ITEMS])
        return shown if len(value) <= MOST_ITEMS else f"{shown} and {len(value) - MOST_ITEMS} more"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return str(value)
