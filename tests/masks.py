"""Small masks for tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tracer.families import read_facts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def make_mask(model: Path | str, experts: Iterable[tuple[int, int]], **changed: Any) -> dict[str, Any]:
    """Return a mask of some (layer, expert) for a checkpoint; `changed` replaces what it says of the model."""
    facts = read_facts(str(model))
    target = changed.pop("target", "swh_Latn")
    described = {
        "id": facts.id,
        "revision": None,
        "config_sha256": facts.config_sha256,
        "moe_layers": list(facts.moe_layers),
        "num_experts": facts.num_experts,
        "top_k": facts.top_k,
        **changed,
    }
    chosen = sorted(experts)
    return {
        "format": "moetrace-mask",
        "version": 1,
        "model": described,
        "strategy": {"name": "sql", "target": target, "parameters": {}},
        "experts": [
            {"layer": layer, "expert": expert, "role": "specific", "zone": None, "score": None}
            for layer, expert in chosen
        ],
        "summary": {
            "experts": len(chosen),
            "pool": len(described["moe_layers"]) * described["num_experts"],
            "parameters": None,
            "share_of_model": None,
        },
        "provenance": {
            "store_format": 3,
            "run": "run",
            "run_sha256": "0" * 64,
            "languages": ["swh_Latn"],
            "tokens": 1,
            "moetrace_version": "0.1.0",
            "created": "2026-01-01T00:00:00+00:00",
        },
    }


def write_mask(file: Path, model: Path | str, experts: Iterable[tuple[int, int]], **changed: Any) -> Path:
    """Write such a mask and return its file."""
    file.write_text(json.dumps(make_mask(model, experts, **changed)), encoding="utf-8")
    return file
