"""Small files as other tools write them, and their import: synthetic traces whose every number is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.store.imports import FORMATS, ImportRequest, ImportResult, Source
from moetrace.store.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LAYERS, EXPERTS, TOP_K = (1, 4), 5, 2

Sequences = list[list[dict[int, float]]]  # of one layer: sequences of tokens, each the weights of its experts

USAGE = np.array([[4, 3, 0, 1, 0], [1, 2, 2, 2, 1]])
STATS = {
    "eng_Latn": {"0": {"0": 1.0, "1": 0.75, "2": 0.25}, "2": {"3": 0.5, "4": 0.5, "0": 1}},
    "swh_Latn": {"0": {"0": 0.5, "1": 0.5, "2": 0.5, "3": 0.5}, "2": {"1": 1, "2": 1}},
}


def import_files(file_format: str, store: Path, *sources: str, run: str = "run", **options: Any) -> ImportResult:
    request = ImportRequest(tuple(Source.parse(source) for source in sources), run, **options)
    return FORMATS[file_format](store, request, Progress())


def import_small(store: Path, *sources: str, **options: Any) -> ImportResult:
    return import_files("esft", store, *sources, top_k=TOP_K, experts=EXPERTS, **options)


def write_task(folder: Path, layers: dict[int, Sequences]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for layer, sequences in layers.items():
        lines = []
        for tokens in sequences:
            ids = "\t".join(str(expert) for token in tokens for expert in token)
            weights = "\t".join(f"{weight:.4f}" for token in tokens for weight in token.values())
            lines.append(f"{ids}\t\t{weights}\n")
        (folder / f"expert_weights_{layer}.txt").write_text("".join(lines))
    return folder


def random_task(seed: int, lengths: Sequence[int], layers: Sequence[int] = LAYERS) -> dict[int, Sequences]:
    rng = np.random.default_rng(seed)

    def token() -> dict[int, float]:
        chosen = rng.choice(EXPERTS, TOP_K, replace=False)
        return {int(expert): float(weight) for expert, weight in zip(chosen, rng.uniform(0, 0.5, TOP_K), strict=True)}

    return {layer: [[token() for _ in range(length)] for length in lengths] for layer in layers}


def small_task(folder: Path) -> Path:
    """Write a task of two layers and three sequences of 2, 1 and 3 tokens."""
    return write_task(folder, random_task(1, (2, 1, 3)))


def write_usage(file: Path, count: np.ndarray, tokens: int) -> Path:
    layers = {
        str(layer): {
            **{
                str(expert): {"activation_tokens": int(number), "gate_values_sum": number / 4}
                for expert, number in enumerate(row)
                if number
            },
            "total_tokens": tokens,
        }
        for layer, row in zip(LAYERS, count, strict=True)
    }
    file.write_text(json.dumps(layers))
    return file


def write_stats(file: Path, languages: dict[str, Any], *, experts: int, top_k: int, layers: int) -> Path:
    config = {
        "model_path": "/models/Made-Up-MoE",
        "num_layers": layers,
        "num_experts_per_layer": experts,
        "num_experts_per_tok": top_k,
    }
    file.write_text(json.dumps({"model_config": config, "languages": languages, "created": "today"}))
    return file
