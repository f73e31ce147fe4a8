"""Permutations of languages that are the same on every machine, and what they say of a statistic."""

from __future__ import annotations

from hashlib import md5
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def language_orders(languages: Sequence[str], permutations: int, seed: int) -> np.ndarray:
    """Return orders [permutations, languages]: whose value each language gets, by index in the sorted languages."""
    names = sorted(languages)
    orders = [
        sorted(range(len(names)), key=lambda index: _digest(f"{seed}:{number}:{names[index]}"))
        for number in range(1, permutations + 1)
    ]
    return np.array(orders, dtype=int).reshape(permutations, len(names))


def two_sided_p(found: float, permuted: np.ndarray) -> float | None:
    """Return the share of values at least as far from 0 as what was found, the found one among them."""
    if not len(permuted):
        return None
    return (1 + int(np.sum(np.abs(permuted) >= abs(found) - 1e-12))) / (1 + len(permuted))


def _digest(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()
