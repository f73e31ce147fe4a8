"""Sets of a given size whose numbers sum nearest to a wanted sum: exactly, in whole numbers, by a seed's order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NEAREST = 16  # sums that are drawn from, at most
MOST_STEPS = 1 << 18  # of a sum: up to so many it is exact, above them numbers are rounded to whole steps
LEAST_STEPS = 1 << 12
MOST_BITS = 1 << 28  # of all tables of one search: 32 MiB


def order_of_seed(seed: object, layer: int, num_experts: int) -> list[int]:
    """Return the experts of a layer in a seed's order, that of the SHA-256 of "seed:layer:expert"."""
    return sorted(range(num_experts), key=lambda expert: _digest(f"{seed}:{layer}:{expert}"))


def draw_of_seed(seed: object, layer: int) -> int:
    """Return the `draw` of `nearest_set` that a seed means in a layer."""
    return int.from_bytes(_digest(f"{seed}:{layer}:load"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def nearest_set(numbers: Sequence[int], size: int, wanted: int, *, slack: int = 0, draw: int = 0) -> list[int]:
    """Return the places, ascending, of `size` of the numbers that sum to `wanted`, or nearly as near to it as any can.

    Of the distinct sums that sets of this size have, those are looked at that are at most `slack` further from `wanted`
    than the nearest, the 16 nearest at most. The one at `draw`, modulo their number, is taken, and of the sets that
    have it the first in the numbers' own order (where more than half are chosen: the set whose others are first). So
    `draw` and the order say which set it is; with a slack of 0 its sum is a nearest one.

    - numbers: 0 or more, at least `size` of them

    Tables of the sums that the numbers from each place on can reach, one bit a sum, give the answer without a search.
    Where sums go beyond 262,144 (less where many tables would take more than 32 MiB), numbers are rounded to multiples
    of the least unit with which they do not: a sum is then at most `size` + 1 such units further than the nearest.
    """
    if 2 * size > len(numbers):
        rest = sum(numbers) - wanted
        others = set(nearest_set(numbers, len(numbers) - size, max(rest, 0), slack=slack, draw=draw))
        return [place for place in range(len(numbers)) if place not in others]
    ordered = sorted(numbers)
    # Nothing above is nearer than what is below: either a sum is at most `wanted`, or the least of all is the nearest.
    furthest = min(sum(ordered[len(ordered) - size :]), max(2 * wanted, sum(ordered[:size])) + slack)
    unit = _unit(furthest, len(numbers), size)
    steps = [_rounded(number, unit) for number in numbers]
    reachable = _reachable(steps, size, _rounded(furthest, unit) + size)
    sums = _nearest_sums(reachable[0][size], _rounded(wanted, unit), slack // unit)
    rest, missing = sums[draw % len(sums)], size
    chosen: list[int] = []
    for place, step in enumerate(steps):
        after = reachable[place + 1]
        if missing and rest >= step and after[missing - 1] >> (rest - step) & 1:
            chosen.append(place)
            rest, missing = rest - step, missing - 1
    return chosen


def _unit(furthest: int, length: int, size: int) -> int:
    """Return the least unit in which the sums up to `furthest` have as few steps as the tables hold."""
    steps = max(LEAST_STEPS, min(MOST_STEPS, MOST_BITS // ((length + 1) * (size + 1))))
    return max(1, -(-furthest // steps))


def _rounded(number: int, unit: int) -> int:
    return (2 * number + unit) // (2 * unit)


def _reachable(steps: Sequence[int], size: int, furthest: int) -> list[list[int]]:
    """Return [place][size] -> the sums of sets of that size of the steps from that place on, as a number's bits.

    Sums above `furthest` are left out.
    """
    tables, within = [[1] + [0] * size], (1 << (furthest + 1)) - 1
    for step in reversed(steps):
        before = tables[-1]
        if step > furthest:
            tables.append(before)
        else:
            tables.append([1] + [before[one] | before[one - 1] << step & within for one in range(1, size + 1)])
    return tables[::-1]


def _nearest_sums(bits: int, wanted: int, slack: int) -> list[int]:
    """Return the sums, given as bits, that are nearest to `wanted`, the nearest first, as far as `slack` allows."""
    wanted = min(wanted, bits.bit_length())  # further away nothing changes but the length of what is shifted
    below, above = bits & ((1 << (wanted + 1)) - 1), bits >> (wanted + 1) << (wanted + 1)
    found: list[int] = []
    while len(found) < NEAREST and (below or above):
        low = below.bit_length() - 1 if below else None
        high = (above & -above).bit_length() - 1 if above else None
        if high is None or (low is not None and wanted - low <= high - wanted):
            nearest = low or 0
            below ^= 1 << nearest
        else:
            nearest = high
            above ^= 1 << nearest
        if found and abs(nearest - wanted) > abs(found[0] - wanted) + slack:
            break
        found.append(nearest)
    return found
