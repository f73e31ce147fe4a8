"""What several tests of selections share: the runs they are made of, and what they compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import rise
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.analytics.selection.selection import Selection

LANGUAGES = ("deu_Latn", "eng_Latn", "swh_Latn")
RECORD = make_record(moe_layers=range(2, 10), num_experts=8)
GENERAL = make_record("general", moe_layers=range(2, 10), num_experts=8)
CREATED = "2025-01-01T00:00:00+00:00"


def cells(selection: Selection) -> list[tuple[int, int]]:
    return [(item.layer, item.expert) for item in selection.experts]


def six_experts(folder: Path) -> Selection:
    """Six experts for Swahili, of a store in `folder` whose run has the record that `make_record` makes."""
    opened = connect(write_world(folder, make_world(1, make_record())))
    return rise(opened, "run", ["swh_Latn"], budget=6, min_count=0)
