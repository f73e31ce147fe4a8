"""The order-0 bound of a layer's decisions: the fewest bytes of a coder that knows frequencies and forgets the token.

A token's decisions are a set of k experts, each with a weight; ranks follow from the weights and cost nothing. The
coder knows how often each expert is chosen in the layer and how often each weight occurs there, nothing else: not the
token, its neighbours, the layer before, nor which weights go with which experts. Its best code takes, for a token,

    H(set) + k H(weight)

- H(set): the entropy of the k-sets that are as random as the experts' frequencies allow (conditional Poisson sampling;
  Chen, Dempster and Liu 1994, Biometrika 81, 457-469). Sets as such cannot be counted: of 8 experts of 128 hardly one
  comes twice. Close to k H(expert) - log2 k!: k ids one by one, less the order that a set does not have. Members stand
  in rising order of id then, so that weights can follow in this order and need no word on whose they are.
- H(weight): the entropy of the layer's weights on the grid that they are stored on, over all ranks.

Weights that were printed with few decimals take few values of the grid; their entropy is less than that of weights as
a model computes them, and a coder has to know each of these values. Split, the bound counts a weight's upper 16 bits
(its bf16 part) and the bits below as two symbols: for captured weights the same to 0.01 byte, for printed ones nearly
what it would be if they had not been printed.

The tables of frequencies, which a real coder has to write too, are not counted. A file can be smaller than the bound
where tokens that are alike stand together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def order0_bytes(
    experts: npt.NDArray[np.unsignedinteger],
    weights: npt.NDArray[np.float32],
    num_experts: int,
    *,
    split: bool = False,
) -> float:
    """Return the bound in bytes a decision of one layer.

    experts: uint8 | uint16 [k, T], k different ones a token; weights: float32 [k, T], rounded to the grid.
    """
    top_k, tokens = experts.shape
    frequency = np.bincount(experts.ravel(), minlength=num_experts) / tokens
    bits = np.ascontiguousarray(weights).view(np.uint32)
    symbols = (bits >> 16, bits & 0xFFFF) if split else (bits,)
    return (set_bits(frequency) / top_k + sum(_entropy_bits(symbol) for symbol in symbols)) / 8


def set_bits(frequency: npt.NDArray[np.float64]) -> float:
    """Return the largest entropy in bits that random sets can have, a set holding expert e with `frequency[e]`, [E].

    Frequencies sum to the size of the sets.
    """
    chosen = frequency[(frequency > 0) & (frequency < 1)]
    size = round(float(chosen.sum()))
    if size == 0:
        return 0.0
    odds = chosen / (1 - chosen)
    for _ in range(1000):
        odds /= np.exp(np.log(odds).mean())
        without = _symmetric_sums_without_each(odds, size)
        total = without[:, size] + odds * without[:, size - 1]  # over all sets of the size, the same for each expert
        found = odds * without[:, size - 1] / total
        if np.abs(found - chosen).max() < 1e-7:
            break
        odds *= chosen / found
    return float(np.log2(total[0]) - chosen @ np.log2(odds))


def _entropy_bits(symbols: npt.NDArray[np.uint32]) -> float:
    share = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-share @ np.log2(share))


def _symmetric_sums_without_each(odds: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    """Return [e, j]: the sum over all sets of j experts without e of the product of their odds, j up to `most`."""
    sums = np.zeros((len(odds), most + 1))
    sums[:, 0] = 1
    for expert, odd in enumerate(odds):
        grown = sums[:, 1:] + odd * sums[:, :-1]
        grown[expert] = sums[expert, 1:]
        sums[:, 1:] = grown
    return sums
