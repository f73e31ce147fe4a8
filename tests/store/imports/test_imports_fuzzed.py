"""Files at random: each is read, or refused in one line, in ten times its memory; an hour is `make fuzz-imports`."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.cases import KINDS
from tests.fuzz.imports import fuzz
from tests.support.examples import FULL, examples

CASES, PARTS = 400, 4


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("part", range(PARTS))
def test_files_at_random_are_read_or_refused(part: int) -> None:
    count = examples(CASES // PARTS).max_examples
    came, _ = fuzz(range(part * FULL * CASES, part * FULL * CASES + count))
    assert sum(came.values()) == count
    if count >= FULL:
        assert {f"{kind} refused" for kind in KINDS} <= came.keys()
