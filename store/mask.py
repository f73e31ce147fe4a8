"""The moetrace mask, version 1: what is in its file, writing it to the byte, reading it with checks.

It stands between what selects experts and what trains or steers them; `analytics.masks` makes it from a selection.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.checked_file import FileKind, json_text, rounded_floats
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class MaskError(MoetraceError):
    """A mask file is damaged, not a mask, or contradicts itself."""


MASK = FileKind(
    noun="a mask",
    schema=Path(__file__).with_name("mask.schema.json"),
    error=MaskError,
    long_lists=re.compile(r"\$\.experts"),
    long_texts={"$.strategy.parameters.query": 1 << 16},  # of `export sql`: the one text that may have lines
)


def mask_text(mask: Mapping[str, Any]) -> str:
    """Return a mask as the text of its file, the same for the same mask; raise MaskError where it is not a mask."""
    rounded = rounded_floats(mask)
    check_mask(rounded, "this mask")
    return json_text(rounded)


def read_mask(path: str | Path) -> dict[str, Any]:
    """Read a mask file; raise MaskError, naming file and place, where it is not a valid mask or names no expert."""
    mask = MASK.parse(path)
    check_mask(mask, str(path))
    if not mask["experts"]:
        raise MaskError(f"{path}, $.experts: the mask has no experts; there is nothing to train or to convert")
    return dict(mask)


def check_mask(mask: Any, where: str) -> None:
    """Raise MaskError, naming `where` and the place in it, for what is no mask, or contradicts itself."""
    MASK.check(mask, where)
    model, experts = mask["model"], mask["experts"]
    layers, seen = set(model["moe_layers"]), set()
    for index, item in enumerate(experts):
        place, key = f"{where}, $.experts[{index}]", (item["layer"], item["expert"])
        if item["layer"] not in layers:
            raise MaskError(f"{place}: layer {item['layer']} is not one of the model's MoE layers")
        if item["expert"] >= model["num_experts"]:
            raise MaskError(f"{place}: expert {item['expert']}, but a layer has {model['num_experts']} experts")
        if key in seen:
            raise MaskError(f"{place}: layer {key[0]}, expert {key[1]} stands twice")
        seen.add(key)
    pool = len(layers) * model["num_experts"]
    for name, counted in (("experts", len(experts)), ("pool", pool)):
        if mask["summary"][name] != counted:
            raise MaskError(f"{where}, $.summary.{name}: says {mask['summary'][name]}, the mask has {counted}")


def check_mask_fits(
    mask: Mapping[str, Any],
    *,
    config_sha256: str | None,
    moe_layers: Sequence[int],
    num_experts: int,
    top_k: int,
    where: str,
) -> None:
    """Raise MaskError, naming `where` and the first difference, where a mask is of another model than this one.

    - config_sha256: the digest of the model's config as run records have it; compared where both sides know theirs
    - moe_layers: decoder indices of the model's MoE layers, in any order
    - where: what the error begins with, the mask's file as a rule
    """
    found = model_difference(
        mask["model"], config_sha256=config_sha256, moe_layers=moe_layers, num_experts=num_experts, top_k=top_k
    )
    if found:
        raise MaskError(f"{where}: the mask is of {found}")


def model_difference(
    model: Mapping[str, Any], *, config_sha256: str | None, moe_layers: Sequence[int], num_experts: int, top_k: int
) -> str | None:
    """Return how the model that a file says it is of differs first from this one, None where it does not.

    config_sha256, moe_layers: as in `check_mask_fits`
    """
    if sorted(moe_layers) != sorted(model["moe_layers"]):
        return f"a model whose MoE layers are {in_spans(model['moe_layers'])}, this model's are {in_spans(moe_layers)}"
    for name, words, of_model in (
        ("num_experts", "experts in a layer", num_experts),
        ("top_k", "experts chosen for each token (top-k)", top_k),
    ):
        if model[name] != of_model:
            return f"a model with {model[name]} {words}, this model has {of_model}"
    theirs = model["config_sha256"]
    if None not in {theirs, config_sha256} and theirs != config_sha256:
        return (
            f"{model['id']} with config digest {theirs[:12]}, this model's config has digest {str(config_sha256)[:12]}"
        )
    return None


def mask_targets(mask: Mapping[str, Any]) -> list[str]:
    """Return the languages that a mask is for."""
    target = mask["strategy"]["target"]
    return [] if target is None else [target] if isinstance(target, str) else list(target)


def in_spans(numbers: Iterable[int]) -> str:
    """Return numbers as ascending spans: 1-3, 5, 7-9."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
