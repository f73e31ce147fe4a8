"""How many parameters a checkpoint has, from the headers of its safetensors files: no weight is read."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moetrace.store.errors import MoetraceError

log = logging.getLogger(__name__)

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's size: `parameters` is None where some are packed several to a number, as in 4-bit checkpoints."""

    parameters: int | None
    bytes: int


def read_checkpoint(model: str, revision: str | None = None) -> Checkpoint | None:
    """Read the headers of a model's safetensors files: of a local folder, or of the hub, where nothing else is fetched.

    None where there are none or the hub cannot be reached. Raises MoetraceError where a local file is not whole.
    """
    if not Path(model).is_dir():
        return _checkpoint(_hub_tensors(model, revision))
    return _checkpoint([tensor for file in sorted(Path(model).glob("*.safetensors")) for tensor in _tensors(file)])


def _checkpoint(tensors: list[dict[str, Any]]) -> Checkpoint | None:
    if not tensors:
        return None
    packed = any(tensor["dtype"] not in FLOATS and len(tensor["shape"]) > 1 for tensor in tensors)
    parameters = sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"] in FLOATS)
    sizes = (end - start for start, end in (tensor["data_offsets"] for tensor in tensors))
    return Checkpoint(None if packed else parameters, sum(sizes))


def _hub_tensors(model: str, revision: str | None) -> list[dict[str, Any]]:
    from huggingface_hub import get_safetensors_metadata  # noqa: PLC0415  slow to import: only for a model of the hub
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        HTTPError,  # of the HTTP library that the hub's client uses: it has changed from version to version
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415

    disable_progress_bars()
    try:
        files = get_safetensors_metadata(model, revision=revision).files_metadata.values()
    except (HTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError) as error:
        log.info("%s: its safetensors headers cannot be read (%s)", model, error)
        return []
    return [asdict(tensor) for file in files for tensor in file.tensors.values()]


def _tensors(file: Path) -> list[dict[str, Any]]:
    """Return the dtype, shape and data_offsets of each tensor: a length (8 bytes, little-endian), then JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length) if length <= LONGEST_HEADER else b""
    try:
        header = json.loads(text)
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        whole = file.stat().st_size >= 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise MoetraceError(f"{file}: not a safetensors file (its header cannot be read); download it again") from error
    if not whole:
        raise MoetraceError(f"{file}: cut short, its header promises more bytes; download it again")
    return tensors
