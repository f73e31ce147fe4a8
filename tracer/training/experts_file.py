"""The file of trained experts: only what a mask trains, in float32, and what is needed to put it into a model again.

A safetensors file. Its tensors are named `layers.3.experts.17.gate_up_proj` (`...17.gate_proj.weight` where experts are
modules) and `layers.3.router.weight`; its metadata have one entry, `moetrace`: JSON with `format`, `version`, `mask`,
`train_router` and `config_sha256`, of the config that the model was loaded from (null where that is unknown). The same
training gives the same bytes.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.loaded_model import check_fits, describe
from moetrace.tracer.training.masking import masking_of, trained_places

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn

    from moetrace.tracer.training.expert_places import Place
    from moetrace.tracer.training.loaded_model import LoadedModel

FORMAT, VERSION = "moetrace-experts", 1
KEY = "moetrace"  # the one entry of the metadata: safetensors writes several in any order


@dataclass(frozen=True)
class TrainedExperts:
    """What a file of trained experts holds: tensors by key, float32, or float64 of a float64 model."""

    mask: Mapping[str, Any]
    train_router: bool
    config_sha256: str | None
    tensors: Mapping[str, torch.Tensor]


def save_experts(model: nn.Module, path: str | Path) -> None:
    """Write the trained tensors of a masked model to a file; it is there whole, or as it was before.

    Raises TrainingError where the model has no mask or the file cannot be written.
    """
    masking = masking_of(model)
    if masking is None:
        raise TrainingError("the model has no mask, so there are no trained experts to save; call apply_mask first")
    tensors = {key: master.detach().cpu().contiguous() for key, master in masking.masters().items()}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "mask": masking.mask,
        "train_router": masking.train_router,
        "config_sha256": masking.loaded.config_sha256,
    }
    partial = Path(f"{path}.{secrets.token_hex(4)}.partial")
    try:
        save_file(tensors, partial, metadata={KEY: json.dumps(header)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


def read_experts(path: str | Path) -> TrainedExperts:
    """Read a file of trained experts.

    Raises TrainingError where it cannot be read or is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "{}"))
            if header.get("format") != FORMAT or header.get("version") != VERSION:
                raise TrainingError(f"{path}: not a file of trained experts of version {VERSION}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dict
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read as a file of trained experts ({error})") from error
    return TrainedExperts(
        mask=header["mask"],
        train_router=header["train_router"],
        config_sha256=header["config_sha256"],
        tensors=tensors,
    )


@torch.no_grad()
def load_experts(model: nn.Module, path: str | Path) -> None:
    """Put the trained tensors of a file into a model.

    A masked model takes them as its masters, bit for bit, and goes on training; its mask must be the file's. A plain
    model takes them rounded to its dtype, and stays a plain one.

    Raises TrainingError or MaskError, naming what differs, where they do not fit; nothing is changed then.
    """
    file, masking = read_experts(path), masking_of(model)
    if masking is None:
        targets = {key: place.tensor for key, place in fitting_places(path, file, describe(model)).items()}
    else:
        _check_model(path, file, masking.loaded)
        targets = {key: master.data for key, master in masking.masters().items()}
        _check_same(path, file.tensors, targets)
    for key, tensor in file.tensors.items():
        targets[key].copy_(tensor)


def fitting_places(path: str | Path, file: TrainedExperts, loaded: LoadedModel) -> dict[str, Place]:
    """Return where a file's tensors belong in a plain model, by key.

    Raises TrainingError or MaskError, naming `path` and what differs, where they do not fit.
    """
    _check_model(path, file, loaded)
    places = trained_places(file.mask, loaded, train_router=file.train_router)
    _check_same(path, file.tensors, {key: place.tensor for key, place in places.items()})
    return places


def _check_model(path: str | Path, file: TrainedExperts, loaded: LoadedModel) -> None:
    check_fits(file.mask, loaded)
    if file.config_sha256 and loaded.config_sha256 and file.config_sha256 != loaded.config_sha256:
        raise TrainingError(
            f"{path}: these experts were trained in a model with config digest {file.config_sha256}; "
            f"that of {loaded.id} is {loaded.config_sha256}"
        )


def _check_same(path: str | Path, tensors: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]) -> None:
    if strange := tensors.keys() - targets.keys():
        raise TrainingError(f"{path}: has {_first(strange)}, which the model does not train")
    if lacking := targets.keys() - tensors.keys():
        raise TrainingError(f"{path}: has no {_first(lacking)}, which the model trains")
    for key, tensor in tensors.items():
        if tensor.shape != targets[key].shape:
            shapes = f"{list(tensor.shape)} in the file and {list(targets[key].shape)} in the model"
            raise TrainingError(f"{path}: {key} is {shapes}")


def _first(keys: Collection[str]) -> str:
    return min(keys) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
