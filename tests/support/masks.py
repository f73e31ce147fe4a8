"""Masks for models of tests, made by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn


def mask_of(
    experts: Sequence[tuple[int, int]],
    *,
    moe_layers: Sequence[int],
    num_experts: int,
    top_k: int,
    config_sha256: str | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """A valid mask of (layer, expert) pairs."""
    return {
        "format": "moetrace-mask",
        "version": 1,
        "model": {
            "id": "tiny",
            "revision": None,
            "config_sha256": config_sha256,
            "moe_layers": list(moe_layers),
            "num_experts": num_experts,
            "top_k": top_k,
        },
        "strategy": {"name": "task", "target": target, "parameters": {}},
        "experts": [{"layer": layer, "expert": expert, "role": "task"} for layer, expert in sorted(experts)],
        "summary": {
            "experts": len(experts),
            "pool": len(moe_layers) * num_experts,
            "parameters": None,
            "share_of_model": None,
        },
        "provenance": {
            "store_format": 1,
            "run": "run",
            "run_sha256": "0" * 64,
            "languages": [],
            "tokens": 0,
            "moetrace_version": "0.1.0",
            "created": "2025-01-01T00:00:00+00:00",
        },
    }


def mask_for(model: nn.Module, experts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A valid mask of (layer, expert) pairs that fits a model in memory."""
    from moetrace.tracer.training.loaded_model import describe

    found = describe(model)
    return mask_of(experts, moe_layers=list(found.experts), num_experts=found.num_experts, top_k=found.top_k)


def write_mask(file: Path, checkpoint: Path, experts: Sequence[tuple[int, int]], **changed: Any) -> Path:
    """Write a mask for a checkpoint's model to a file; `changed` is what it says otherwise."""
    from moetrace.tracer.model.facts import read_facts

    facts = read_facts(str(checkpoint))
    names = ("moe_layers", "num_experts", "top_k", "config_sha256")
    described = {name: getattr(facts, name) for name in names}
    file.write_text(json.dumps(mask_of(experts, **{**described, **changed})), encoding="utf-8")
    return file
