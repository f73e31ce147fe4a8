"""Timing that benchmarks share."""

from __future__ import annotations

import os
import platform
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median wall time of `rounds` calls."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def seconds_in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[str], object] = lambda _: None
) -> dict[str, list[float]]:
    """Return the wall times of every way in each round; which comes first turns with the rounds.

    `before` is called with the name of a way before it runs, and not timed.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before(name)
            start = time.perf_counter()
            ways[name]()
            found[name].append(time.perf_counter() - start)
    return found


def ratio_of_rounds(seconds: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return how many times as fast as another way one is: the median of the rounds' own ratios."""
    return statistics.median(other / mine for other, mine in zip(seconds[base], seconds[name], strict=True))


def described(*, compiled: bool, new_tokens: int) -> str:
    """Return the machine and the mode that a table of an engine was taken in."""
    mode = "prefill" if new_tokens == 1 else f"{new_tokens} new tokens a text"
    how = "compiled" if compiled else "eager"
    return f"{platform.machine()}, {os.cpu_count()} cores, float32, {how}, {mode}"
