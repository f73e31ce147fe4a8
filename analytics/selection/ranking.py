"""Ranking experts so that the same scores give the same order on every machine."""

from __future__ import annotations

from fractions import Fraction


def rounded_score(score: float) -> float:
    """Return a score at 12 significant digits: what differs by the order of a sum alone is a tie on every machine."""
    return float(f"{score:.12g}")


def ranking_key(score: float, layer: int, expert: int) -> tuple[float, int, int]:
    """Return the key that sorts the highest score first, ties the lower (layer, expert) first."""
    return -rounded_score(score), layer, expert


def as_decimal(number: float) -> Fraction:
    """Return the decimal that was meant, exactly: floor(180 x 0.35) is 63, whatever binary 0.35 is."""
    return Fraction(str(number))
