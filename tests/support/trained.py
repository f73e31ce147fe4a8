"""A whole training of the bundled model, on whatever device there is, merged into its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.tracer.bundled import CORPUS, MODEL
from tests.support.masks import write_mask

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.tracer.training.training import TrainingResult

EXPERTS = ((0, 3), (0, 4), (5, 31), (7, 0))


@dataclass(frozen=True)
class Merged:
    """What training did, and the tensors of the checkpoint that a merge changed, and those that it may change."""

    result: TrainingResult
    changed: set[str]
    masked: set[str]


def train_and_merge(folder: Path, steps: int) -> Merged:
    """Train a few experts with bfloat16 weights, and compare the merged checkpoint with the bundled one by the bit."""
    import torch
    from safetensors.torch import load_file

    from moetrace.store.mask import read_mask
    from moetrace.tracer.training.merging import merge
    from moetrace.tracer.training.settings import TrainingSettings
    from moetrace.tracer.training.training import train

    settings = TrainingSettings(
        languages=("swh_Latn",),
        eval_languages=("swh_Latn",),
        eval_corpus=str(CORPUS),
        eval_texts=6,
        max_steps=steps,
        batch_size=2,
        length=64,
        learning_rate=1e-2,
        weight_decay=0.1,
        dtype="bfloat16",
    )
    mask = read_mask(write_mask(folder / "mask.json", MODEL, EXPERTS, target="swh_Latn"))
    result = train(str(MODEL), str(CORPUS), folder / "trained", mask=mask, settings=settings)
    merge(MODEL, folder / "trained" / "experts.safetensors", folder / "merged")
    before, after = (load_file(path / "model.safetensors") for path in (MODEL, folder / "merged"))
    assert before.keys() == after.keys()
    return Merged(
        result,
        {name for name, tensor in before.items() if not torch.equal(tensor, after[name])},
        {
            f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
            for layer, expert in EXPERTS
            for part in ("gate", "up", "down")
        },
    )
