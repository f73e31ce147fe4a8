"""An ordinary checkpoint with trained experts in it: what vLLM and everybody else loads."""

from __future__ import annotations

import json
import secrets
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from moetrace.tracer.model.facts import read_config
from moetrace.tracer.model.transformers_logging import quiet_transformers
from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.experts_file import TrainedExperts, fitting_places, read_experts
from moetrace.tracer.training.loaded_model import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.tracer.training.expert_places import Place

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")


def merge(checkpoint: str | Path, experts_file: str | Path, output: str | Path, *, revision: str | None = None) -> None:
    """Write a checkpoint with the trained experts of a file in the place of its own.

    The checkpoint is a folder or a hub id; the output folder must not exist or be empty. Only tensors that a trained
    expert or router is part of are written anew, under the names and in the dtype that they have on disk; every other
    tensor, config, tokenizer and all other files are copied byte for byte. The output is there whole or not at all.

    Raises TrainingError where the output has something in it, the checkpoint has no safetensors files, is quantised, or
    does not come out of transformers as it went in; TrainingError or MaskError where the experts do not fit it.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise TrainingError(f"{output}: there is something already; merge into a new or empty folder")
    experts = read_experts(experts_file)
    folder = _local(str(checkpoint), revision)
    if read_config(str(folder)).get("quantization_config"):
        raise TrainingError(f"{checkpoint}: a quantised checkpoint; experts are merged into one that is not")
    files = _files_by_tensor(folder)
    partial = output.absolute().with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        model = _load(folder, _dtype_on_disk(folder, files))
        places = fitting_places(experts_file, experts, describe(model))
        changed = _changed_tensors(model, experts, places, partial / "converted", _Checkpoint(folder, files))
        del model, places
        for file in sorted(set(files.values())):
            own = {name: tensor for name, tensor in changed.items() if files[name] == file}
            _write_weights(folder / file, partial / file, own)
        for path in _other_files(folder):
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, partial / path)
        partial.rename(output)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{checkpoint} could not be merged into {output} ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@dataclass(frozen=True)
class _Checkpoint:
    """A folder of safetensors files, and which file each tensor stands in."""

    folder: Path
    files: Mapping[str, str]

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self.folder / self.files[name], framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]


def _local(checkpoint: str, revision: str | None) -> Path:
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    from huggingface_hub import snapshot_download  # noqa: PLC0415  only for a model of the hub

    try:
        return Path(snapshot_download(checkpoint, revision=revision))
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{checkpoint}: no checkpoint there ({first}); give a folder or a hub id") from error


def _files_by_tensor(folder: Path) -> dict[str, str]:
    """Return the file that each tensor of a checkpoint stands in, by the tensor's name on disk."""
    if (folder / INDEX).is_file():
        return dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
    if not (folder / SINGLE).is_file():
        raise TrainingError(f"{folder}: no {SINGLE} and no {INDEX}; only safetensors checkpoints are merged")
    with safe_open(folder / SINGLE, framework="pt") as file:
        return dict.fromkeys(file.keys(), SINGLE)


def _changed_tensors(
    model: Any, experts: TrainedExperts, places: Mapping[str, Place], scratch: Path, original: _Checkpoint
) -> dict[str, torch.Tensor]:
    """Return the tensors on disk that the trained experts change, as they are to be, by name.

    transformers converts what it loads (it fuses experts) and back when it saves. One parameter after another goes that
    way, as it is and with the trained values in it, so that one layer at most is in memory twice.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_parameter: dict[str, list[tuple[Place, torch.Tensor]]] = {}
    for key, place in places.items():
        by_parameter.setdefault(names[id(place.parameter)], []).append((place, experts.tensors[key]))
    changed: dict[str, torch.Tensor] = {}
    for name, trained in by_parameter.items():
        parameter = trained[0][0].parameter
        before = _as_on_disk(model, name, parameter.detach(), scratch)
        on_disk = {key: original.read(key) for key in before if key in original.files}
        for key, tensor in before.items():
            if key not in on_disk or not torch.equal(tensor.to(on_disk[key].dtype), on_disk[key]):
                raise TrainingError(f"{original.folder}: {key} does not come out of transformers as it went in")
        for place, tensor in trained:
            place.tensor.copy_(tensor)
        after = _as_on_disk(model, name, parameter.detach(), scratch)
        changed |= {key: after[key].to(on_disk[key].dtype) for key in after if not after[key].equal(before[key])}
    return changed


def _as_on_disk(model: Any, name: str, tensor: torch.Tensor, scratch: Path) -> dict[str, torch.Tensor]:
    """Return a parameter under the names and in the shapes that transformers saves it in."""
    model.save_pretrained(scratch, state_dict={name: tensor})
    converted = _Checkpoint(scratch, _files_by_tensor(scratch))
    found = {key: converted.read(key) for key in converted.files}
    shutil.rmtree(scratch)
    return found


def _load(folder: Path, dtype: torch.dtype) -> Any:
    import transformers  # noqa: PLC0415  slow to import: after what can be refused without it

    quiet_transformers()
    named = [getattr(transformers, name, None) for name in read_config(str(folder)).get("architectures") or ()]
    architecture = next((found for found in named if found), transformers.AutoModelForCausalLM)
    try:
        return architecture.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{folder}: transformers cannot load this checkpoint ({first})") from error


def _dtype_on_disk(folder: Path, files: Mapping[str, str]) -> torch.dtype:
    """Return the floating dtype that most values of a checkpoint have."""
    values: Counter[torch.dtype] = Counter()
    for file in sorted(set(files.values())):
        with safe_open(folder / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  it is no dict
                tensor = opened.get_slice(name)
                if found := TORCH_DTYPES.get(tensor.get_dtype()):
                    values[found] += torch.Size(tensor.get_shape()).numel()
    return values.most_common(1)[0][0] if values else torch.float32


def _write_weights(source: Path, target: Path, changed: Mapping[str, torch.Tensor]) -> None:
    if not changed:
        shutil.copyfile(source, target)
        return
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    save_file({**load_file(source), **changed}, target, metadata=metadata)


def _other_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that hold no weights, and the index of those in safetensors."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path
        for path in paths
        if (path.name == INDEX or not path.name.endswith(WEIGHTS)) and not any(part[0] == "." for part in path.parts)
    ]
