"""Random checkpoints of the tiny models in tests/support/families.py.

Weights are drawn wide enough that every part of a layer moves the next router's logits, and routers wide enough that
routing is decisive: at transformers' own initialisation nearly every token would be a tie.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.support.families import COMMON, TINY

if TYPE_CHECKING:
    import torch

ROUTER_WIDTH = 0.25  # logits with a standard deviation of 2
BIAS_WIDTH = 0.15  # selection biases that change about one token's experts in two


def make_checkpoint(name: str, folder: Path, *, dtype: str = "float32", seed: int = 0) -> torch.nn.Module:
    """Write the family's checkpoint to `folder` and return a transformers model of its own with the same weights."""
    model, files = _made(name, dtype, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return copy.deepcopy(model)


@cache
def _made(name: str, dtype: str, seed: int) -> tuple[torch.nn.Module, dict[str, bytes]]:
    """Make a checkpoint, once in a process: the model that it was written from, and the content of its files."""
    with TemporaryDirectory() as folder:
        model = _make(name, Path(folder), dtype, seed)
        return model, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _make(name: str, folder: Path, dtype: str, seed: int) -> torch.nn.Module:
    import torch
    import transformers

    tiny = TINY[name]
    torch.manual_seed(seed)
    config = getattr(transformers, tiny.config)(**{**COMMON, **tiny.options})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        for path, tensor in (*model.named_parameters(), *model.named_buffers()):
            draw(path, tensor)
    model.save_pretrained(folder)
    if tiny.quantize:
        model = quantize_experts(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **tiny.written}, indent=1))
    return model


def quantize_experts(folder: Path) -> torch.nn.Module:
    """Rewrite a checkpoint's experts in float8; return the transformers model that has what is left of them."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if ".experts." in name]:
        weight = tensors[name].float()
        assert max(weight.shape) <= 128, "one block a matrix"
        scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale.view(1, 1)
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("_scale_inv")}
    for name, tensor in kept.items():
        if f"{name}_scale_inv" in tensors:
            kept[name] = (tensor.float() * tensors[f"{name}_scale_inv"]).to(torch.bfloat16)
    save_file(kept, file, metadata={"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    save_file(tensors, file, metadata={"format": "pt"})
    return model


def draw(path: str, tensor: torch.Tensor) -> None:
    """Fill a parameter or buffer by what it is; leave alone what state-space layers and rotary embeddings need."""
    if any(part in path for part in ("inv_freq", "A_log", "dt_", "conv1d", ".D")):
        return
    if is_selection_bias(path):
        tensor.normal_(0, BIAS_WIDTH if "moe_statics" not in path else BIAS_WIDTH / 3)
    elif tensor.ndim == 1 and path.endswith("weight"):
        tensor.add_(tensor.clone().normal_(0, 0.1))  # norms: about one, or about zero where they add one themselves
    elif tensor.ndim == 1 or path.endswith("bias"):
        tensor.normal_(0, 0.1)
    elif "embed_tokens" in path:
        tensor.normal_(0, 1)
    elif is_router(path):
        tensor.normal_(0, ROUTER_WIDTH)
    else:
        tensor.normal_(0, tensor.shape[-1] ** -0.5)  # activations keep their size


def is_selection_bias(path: str) -> bool:
    """Tell whether a parameter is the bias that experts are selected with."""
    return any(part in path for part in ("e_score_correction_bias", "moe_statics", "expert_bias"))


def is_router(path: str) -> bool:
    """Tell whether a parameter is a router's matrix."""
    return path.endswith((".gate.weight", ".router.weight", ".gate.wg.weight"))
