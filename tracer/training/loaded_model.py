"""What a loaded model says of itself: the facts that a mask is checked against before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.store.mask import check_mask, check_mask_fits
from moetrace.tracer.model.facts import EXPERT_COUNTS, TOP_KS, first_value, read_facts
from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.expert_places import LayerExperts, find_experts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


@dataclass(frozen=True)
class LoadedModel:
    """A model's name, its config's digest (None where it was made in memory), and the experts of its MoE layers."""

    id: str
    config_sha256: str | None
    num_experts: int
    top_k: int
    experts: Mapping[int, LayerExperts]


def describe(model: nn.Module) -> LoadedModel:
    """Return what a transformers model says of itself.

    Raises TrainingError where it is no transformers model, or its experts are not found.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise TrainingError(f"{type(model).__name__} is not a model of transformers; unwrap it first")
    text = config.get_text_config()
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    values: dict[str, Any] = text.to_dict()
    num_experts, top_k = (first_value(values, keys, name) for keys in (EXPERT_COUNTS, TOP_KS))
    if not num_experts or not top_k:
        raise TrainingError(f"{name}: not a Mixture-of-Experts model (its config names no experts)")
    experts = find_experts(model, int(text.num_hidden_layers), num_experts)
    return LoadedModel(name, _config_sha256(model, name), num_experts, top_k, experts)


def check_fits(mask: Mapping[str, Any], loaded: LoadedModel) -> None:
    """Raise MaskError where a mask is damaged or is for another model; TrainingError where it has no experts."""
    check_mask(mask, "the mask")
    check_mask_fits(
        mask,
        config_sha256=loaded.config_sha256,
        moe_layers=tuple(loaded.experts),
        num_experts=loaded.num_experts,
        top_k=loaded.top_k,
        where=loaded.id,
    )
    if not mask["experts"]:
        raise TrainingError("the mask has no experts; there is nothing to train")


def _config_sha256(model: nn.Module, name: str) -> str | None:
    """Return the digest of the config.json that the model was loaded from; nothing is downloaded for it."""
    revision = getattr(model.config, "_commit_hash", None)
    if not (Path(name) / "config.json").is_file() and revision is None:
        return None
    try:
        return read_facts(name, revision).config_sha256
    except MoetraceError:
        return None
