"""What a run record says of the model that was traced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.tracer.model.checkpoint import read_checkpoint
from moetrace.tracer.model.tokenizer import special_token_ids, tokenizer_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moetrace.tracer.model.facts import ModelFacts


def model_record(facts: ModelFacts, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """Return the `model` part of a run record, but for what only a running engine knows (MoE layers, dtype)."""
    found: dict[str, Any] = {
        "id": model_id(facts.id),
        "revision": facts.revision,
        "config_sha256": facts.config_sha256,
        "family": facts.family,
        "num_layers": facts.num_layers,
        "num_experts": facts.num_experts,
        "top_k": facts.top_k,
        "parameters_per_expert": facts.parameters_per_expert,
        "parameters": _parameters(facts.id),
        "tokenizer_sha256": None if tokenizer is None else tokenizer_digest(tokenizer),
    }
    return found if tokenizer is None else {**found, "special_token_ids": special_token_ids(tokenizer)}


def model_id(model: str) -> str:
    """Return the hub id, or the name of a local folder: where the folder lies is not what the model is."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _parameters(model: str) -> int | None:
    """Return the number of parameters of a local checkpoint, None where it is not one or its numbers are packed."""
    checkpoint = read_checkpoint(model) if Path(model).is_dir() else None
    return checkpoint.parameters if checkpoint else None
