"""The number that an answer ends with, in any script."""

from __future__ import annotations

from decimal import Decimal

import pytest

from moetrace.tracer.evaluation.numbers import last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("3 + 4 = 7", "7"),
        ("It costs $1,234.50.", "1234.5"),
        ("1.234.567 Menschen", "1234567"),
        ("1.234,5 Euro", "1234.5"),
        ("minus -3", "-3"),
        ("\N{MINUS SIGN}3", "-3"),
        ("1,200", "1200"),
        ("3,5", "3.5"),
        ("12,", "12"),
        ("उत्तर ४२ है", "42"),
        ("答えは４２です。", "42"),
        ("١٬٢٠٠", "1200"),  # noqa: RUF001  other digits are what is tested
        ("٣٫٥", "3.5"),  # noqa: RUF001
        ("007", "7"),
    ],
)
def test_the_last_number(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


def test_what_comes_after_a_stop_does_not_count() -> None:
    text = "The answer is 5.\n\nQuestion: what is 6?"
    assert last_number(text, ["\n\n"]) == 5
    assert last_number(text, ["Question:", "The"]) is None
    assert last_number(text, [""]) == 6
    assert last_number("none at all") is None
