"""Activation frequencies of many languages in one file come back."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from tests.support.imported import check_overlaps_of_mgsm
from tests.support.published import (
    STATS,
    import_files,
    write_stats,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_frequencies_in_the_form_of_rise_come_back(mgsm: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    frequencies: dict[str, Any] = defaultdict(dict)
    for lang, layers in mgsm.items():
        for layer, experts in layers.items():
            counts = {
                expert: numbers["activation_tokens"] for expert, numbers in experts.items() if expert != "total_tokens"
            }
            frequencies[lang][layer] = {expert: 8 * count / sum(counts.values()) for expert, count in counts.items()}
    file = write_stats(tmp_path / "routing_stats.json", frequencies, experts=128, top_k=8, layers=48)
    import_files("rise-stats", tmp_path / "store", str(file))
    assert verify(tmp_path / "store").problems == []
    for lang, layer, expert, frequency in metrics.activation(connect(tmp_path / "store"))[
        ["lang", "layer", "expert", "frequency"]
    ].iter_rows():
        assert frequency == pytest.approx(frequencies[lang][str(layer)][str(expert)], abs=1e-9)
    check_overlaps_of_mgsm(tmp_path / "store")


def test_languages_of_one_file_can_be_chosen(tmp_path: Path) -> None:
    stats = write_stats(tmp_path / "stats.json", STATS, experts=5, top_k=2, layers=3)
    import_files("rise-stats", tmp_path / "store", f"swh_Latn={stats}")
    assert Store(tmp_path / "store").languages("run") == ["swh_Latn"]
