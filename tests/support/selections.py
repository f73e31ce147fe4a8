"""What several tests of selections share: the runs they are made of, and what they compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.stores import make_record

if TYPE_CHECKING:
    from moetrace.analytics.selection.selection import Selection

LANGUAGES = ("deu_Latn", "eng_Latn", "swh_Latn")


RECORD = make_record(moe_layers=range(2, 10), num_experts=8)


GENERAL = make_record("general", moe_layers=range(2, 10), num_experts=8)


CREATED = "2025-01-01T00:00:00+00:00"


def cells(selection: Selection) -> list[tuple[int, int]]:
    return [(item.layer, item.expert) for item in selection.experts]
