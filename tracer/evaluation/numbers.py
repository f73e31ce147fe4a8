"""The number that an answer ends with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from moetrace.tracer.evaluation.tasks import as_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

MINUS, ARABIC_THOUSANDS, ARABIC_POINT = (
    "\N{MINUS SIGN}",
    "\N{ARABIC THOUSANDS SEPARATOR}",
    "\N{ARABIC DECIMAL SEPARATOR}",
)
MARKS = f".,{ARABIC_THOUSANDS}{ARABIC_POINT}"
NUMBER = re.compile(rf"[-{MINUS}]?\d+(?:[{MARKS}]\d+)*")  # digits of any script
MARK = re.compile(f"[{MARKS}]")
THOUSANDS = re.compile(r"[^,]+,\d{3}")


def last_number(text: str, stops: Sequence[str] = ()) -> Decimal | None:
    """Return the last number of a text, up to the first of the stops; None where there is none.

    A mark that stands more than once separates thousands, as a comma before three digits does; of two kinds of marks
    the last is the decimal point, as any other mark is. The last number is what `flexible-extract` of
    lm-evaluation-harness takes, too.
    """
    end = min((at for at in (text.find(stop) for stop in stops if stop) if at >= 0), default=len(text))
    found = NUMBER.findall(text[:end])
    return as_number(_plain(found[-1])) if found else None


def _plain(number: str) -> str:
    """Return a number with its thousands together and a point before its decimals."""
    number = number.replace(MINUS, "-").replace(ARABIC_POINT, ".").replace(ARABIC_THOUSANDS, ",")
    marks = MARK.findall(number)
    if len(set(marks)) > 1:
        whole, _, decimals = number.rpartition(marks[-1])
        return f"{MARK.sub('', whole)}.{decimals}"
    if len(marks) > 1 or THOUSANDS.fullmatch(number):
        return MARK.sub("", number)
    return number.replace(",", ".")
