"""Bits of records, flipped at random: an error or the same answer; all of them in `make fuzz-store`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fuzz.records import run

if TYPE_CHECKING:
    from pathlib import Path


def test_no_flipped_bit_of_a_record_changes_an_answer(tmp_path: Path) -> None:
    flips = run(tmp_path, sample=300)
    assert flips.wrong == []
    outcomes = {path: set(counts) for path, counts in flips.counts.items()}
    assert all(found <= {"refused", "same"} for found in outcomes.values())
    refused = {path for path, found in outcomes.items() if "refused" in found}
    assert refused == {"store.json", "runs/run.json", "commits/run=run/lang=swh_Latn/00000.json"}
