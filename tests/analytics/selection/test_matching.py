"""Sets of a size whose sum is nearest to a wanted one, against all sets there are."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.selection import matching
from moetrace.analytics.selection.matching import NEAREST, nearest_set
from tests.support.examples import examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

NUMBERS = st.lists(st.integers(0, 40) | st.integers(0, 100_000), min_size=1, max_size=9)


def sums_of(numbers: Sequence[int], size: int) -> set[int]:
    return {sum(chosen) for chosen in combinations(numbers, size)}


def sums_in_reach(numbers: Sequence[int], size: int, wanted: int, slack: int) -> list[int]:
    """What may be drawn, the nearest first: never more than NEAREST."""
    ranked = sorted(sums_of(numbers, size), key=lambda one: abs(one - wanted))
    return [one for one in ranked if abs(one - wanted) <= abs(ranked[0] - wanted) + slack]


@given(NUMBERS, st.data(), st.integers(0, 300_000), st.integers(0, 2**70))
@examples(300)
def test_the_sum_is_the_nearest_there_is(numbers: list[int], data: st.DataObject, wanted: int, draw: int) -> None:
    size = data.draw(st.integers(0, len(numbers)))
    found = nearest_set(numbers, size, wanted, draw=draw)
    assert found == sorted(set(found))
    assert len(found) == size
    assert all(0 <= place < len(numbers) for place in found)
    best = min(abs(one - wanted) for one in sums_of(numbers, size))
    assert abs(sum(numbers[place] for place in found) - wanted) == best


@given(NUMBERS, st.data(), st.integers(0, 300_000), st.integers(0, 2_000))
@examples(200)
def test_every_sum_within_the_slack_is_drawn_and_no_other(
    numbers: list[int], data: st.DataObject, wanted: int, slack: int
) -> None:
    size = data.draw(st.integers(0, len(numbers)))
    reach = sums_in_reach(numbers, size, wanted, slack)
    places = [nearest_set(numbers, size, wanted, slack=slack, draw=draw) for draw in range(NEAREST)]
    drawn = {sum(numbers[place] for place in found) for found in places}
    assert len(drawn) == min(len(reach), NEAREST)
    distances = sorted(abs(one - wanted) for one in reach)[: len(drawn)]
    assert sorted(abs(one - wanted) for one in drawn) == distances


def test_draws_find_each_of_the_sums_alike() -> None:
    numbers = [1, 2, 4, 8, 16]
    drawn = [sum(numbers[place] for place in nearest_set(numbers, 2, 9, slack=3, draw=draw)) for draw in range(40)]
    assert Counter(drawn) == dict.fromkeys((9, 10, 6, 12), 10)


def test_the_order_says_which_of_the_sets_of_a_sum_it_is() -> None:
    numbers = [5] * 12
    assert nearest_set(numbers, 3, 15) == [0, 1, 2]
    rng, seen = np.random.default_rng(1), Counter[int]()
    for _ in range(400):
        order = rng.permutation(12).tolist()
        seen.update(order[place] for place in nearest_set(numbers, 3, 15))
    # 100 of each are expected, with a standard deviation of 9.
    assert min(seen.values()) > 60
    assert max(seen.values()) < 140


def test_numbers_that_are_too_large_for_tables_are_rounded_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    monkeypatch.setattr(matching, "MOST_STEPS", 64)
    monkeypatch.setattr(matching, "LEAST_STEPS", 1)
    off = []
    for _ in range(200):
        numbers = rng.integers(1000, size=rng.integers(4, 10)).tolist()
        size, wanted = int(rng.integers(1, len(numbers) // 2 + 1)), int(rng.integers(3000))
        unit = -(-sum(sorted(numbers)[-size:]) // 64)  # at most
        distance = abs(sum(numbers[place] for place in nearest_set(numbers, size, wanted)) - wanted)
        best = min(abs(one - wanted) for one in sums_of(numbers, size))
        assert distance - best <= (size + 1) * unit
        off.append(distance - best)
    assert any(off)


def test_layers_of_large_models_are_exact_or_nearly_so() -> None:
    ranks = np.random.default_rng(3).permutation(384).tolist()
    for most, off in ((30_000, 0), (3_000_000, 1e-3), (10**12, 1e-3)):
        numbers = [most // (rank + 1) for rank in ranks]
        wanted = sum(sorted(numbers)[100:140])
        found = nearest_set(numbers, 40, wanted)
        assert len(found) == 40
        assert abs(sum(numbers[place] for place in found) - wanted) <= off * wanted
        # More, or less, than there is to have: the largest, or the smallest.
        assert sorted(numbers[place] for place in nearest_set(numbers, 350, 0)) == sorted(numbers)[:350]
        assert sum(numbers[place] for place in nearest_set(numbers, 40, 10**15)) >= (1 - off) * sum(
            sorted(numbers)[-40:]
        )
