"""How many parameters a checkpoint has, from the headers of its safetensors files: no weight is read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store import MoetraceError

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's size: `parameters` is None where some are packed several to a number, as in 4-bit checkpoints."""

    parameters: int | None
    bytes: int


def read_checkpoint(model: str) -> Checkpoint | None:
    """Read the headers of a local folder's safetensors files; None where there are none, as for a hub id.

    Raises MoetraceError where a file is not whole.
    """
    files = sorted(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
    tensors = [tensor for file in files for tensor in _tensors(file)]
    if not tensors:
        return None
    packed = any(tensor["dtype"] not in FLOATS and len(tensor["shape"]) > 1 for tensor in tensors)
    parameters = sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"] in FLOATS)
    sizes = (end - start for start, end in (tensor["data_offsets"] for tensor in tensors))
    return Checkpoint(None if packed else parameters, sum(sizes))


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
