"""The grids that gate weights are rounded to before they are stored.

A grid keeps float32's exponent and fewer bits of its mantissa, so that the relative error is bounded for every
normal float32, tiny weights included: 2^-8 for bf16's 7 bits, 2^-11 (4.9e-4) for float16's 10 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import MoetraceError

MANTISSA_BITS = {"bf16": 7, "f16": 10, "f32": 23}


def round_weights(
    weights: npt.NDArray[np.float32], precision: str, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Return non-negative `weights` rounded to the nearest value of the grid, halves to even, same shape; -0 is 0.

    Written to `out` where it is given.
    """
    drop = dropped_bits(precision)
    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    result = np.empty(bits.shape, dtype=np.float32) if out is None else out
    rounded = result.view(np.uint32)
    if drop == 0:
        np.copyto(rounded, bits)
    else:
        np.right_shift(bits, np.uint32(drop), out=rounded)
        np.bitwise_and(rounded, np.uint32(1), out=rounded)
        np.add(rounded, np.uint32((1 << (drop - 1)) - 1), out=rounded)
        np.add(rounded, bits, out=rounded)
    np.bitwise_and(rounded, np.uint32((1 << 31) - (1 << drop)), out=rounded)
    return result


def lies_on(weights: npt.NDArray[np.float32], precision: str) -> bool:
    """Tell whether rounding to the grid would change nothing."""
    bits = np.ascontiguousarray(weights).view(np.uint32)
    return not np.bitwise_or.reduce(bits, axis=None) & np.uint32((1 << dropped_bits(precision)) - 1)


def lossless_precision(weights: npt.NDArray[np.float32]) -> str:
    """Return what `--weight-precision auto` stands for: bf16 where captured weights lie on its grid, else f16."""
    return "bf16" if lies_on(weights, "bf16") else "f16"


def dropped_bits(precision: str) -> int:
    """Return how many of the last mantissa bits of a float32 are zero on the grid."""
    if precision not in MANTISSA_BITS:
        raise MoetraceError(f"weight precision {precision!r} is not one of {', '.join(MANTISSA_BITS)}")
    return 23 - MANTISSA_BITS[precision]
