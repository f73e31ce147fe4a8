"""Sentences of findings: what is said has its interval, and what other texts could undo is not said."""

from __future__ import annotations

import numpy as np
import pytest

from moetrace.analytics.report.findings import Series, by_layer, within_floor
from moetrace.analytics.report.names import listed
from moetrace.analytics.uncertainty.curves import Curve


def series(values: list[float], error: float) -> Series:
    """Values that vary independently of each other by a standard error."""
    rng = np.random.default_rng(0)
    found = np.array(values)
    return by_layer(range(len(values)), found, Curve(found, found + error * rng.normal(size=(2000, len(values)))))


def ends(found: Series) -> str:
    return found.ends("Highest in", "lowest in", "All the same")


def test_ends_are_said_with_intervals() -> None:
    assert ends(series([0.1, 0.5, 0.9], 0.01)) == (
        "Highest in layer 2 (0.90, 0.88 to 0.92) and lowest in layer 0 (0.10, 0.08 to 0.12)."
    )


def test_what_cannot_be_told_from_an_end_is_named_beside_it() -> None:
    said = ends(series([0.1, 0.89, 0.9, 0.5], 0.02))
    assert said.startswith("Highest in layer 2 (0.90, 0.86 to 0.94; cannot be told from layer 1) and lowest in layer 0")


def test_ends_that_cannot_be_told_apart_are_no_difference() -> None:
    said = ends(series([0.50, 0.51, 0.52], 0.05))
    assert said.startswith("All the same: 0.50 (0.40 to 0.60) at the lowest, 0.52 (0.42 to 0.62) at the highest")
    assert "Highest" not in said


def test_values_without_replicates_are_said_without_intervals() -> None:
    assert (
        ends(by_layer([3, 7], np.array([0.1, 0.9]), None)) == "Highest in layer 7 (0.90) and lowest in layer 3 (0.10)."
    )
    assert by_layer([3, 7], np.array([0.1, 0.9]), None).around_zero() == []


def test_differences_that_always_go_together_are_told_apart_although_intervals_overlap() -> None:
    """Draws of the same texts: what moves both does not hide their difference."""
    values, together = np.array([0.5, 0.52]), np.random.default_rng(1).normal(size=(500, 1))
    said = ends(by_layer([0, 1], values, Curve(values, values + 0.1 * together)))
    assert said.startswith("Highest in layer 1 (0.52, ")


def test_zero_and_the_floor() -> None:
    found = series([0.0, 0.3], 0.02)
    assert found.around_zero() == ["layer 0"]
    floor = Curve(np.array([0.1, 0.1]), np.full((10, 2), 0.1), "percentile")
    assert within_floor(found, floor) == ["layer 0"]
    assert within_floor(found, None) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (list("abcdefg"), "a, b, c, d, e and 2 more"),
    ],
)
def test_names_are_listed(names: list[str], said: str) -> None:
    assert listed(names) == said
