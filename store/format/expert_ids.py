"""How wide an expert id is, in memory and in files."""

from __future__ import annotations

import numpy as np


def expert_dtype(num_experts: int) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
    """Return the type of the expert ids of a model: uint8 up to 256 experts a layer, uint16 above."""
    return np.dtype(np.uint8) if num_experts <= 256 else np.dtype(np.uint16)
