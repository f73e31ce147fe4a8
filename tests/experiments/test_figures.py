"""The figures are drawn from results alone, and names beside points do not cover each other where there is room."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from tests.experiments.figures import readme
from tests.experiments.figures.__main__ import draw
from tests.experiments.figures.labels import places
from tests.experiments.figures.rise import rows_of
from tests.experiments.figures.style import series
from tests.support.experiment import made_up
from tests.support.paths import ROOT
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


def test_a_name_goes_where_nothing_is() -> None:
    assert places([0, 100], [0, 100], 300, 300) == ["right", "right"]
    close = places([0, 0.02, 1], [0, 0, 1], 300, 300)  # 6 pixels apart
    assert close[0] != close[1] or close[0] in {"above", "below"}
    assert "right" not in places([0, 0.04, 1], [0, 0, 1], 300, 300)[:1]  # a dot stands there
    assert places([1, 10, 100], [0, 0, 0], 300, 300, log_x=True) == ["right"] * 3


def test_a_curve_is_drawn_as_far_as_every_seed_reaches() -> None:
    rows = [row for row in rows_of(made_up()) if row["panel"] == "t: all others"]
    assert {row["series"] for row in rows} == {"rise", "random", "full 0.0001"}
    last = {row["series"]: row for row in rows}
    assert last["rise"]["damage"] == pytest.approx(0.2)
    assert last["rise"]["gain"] == pytest.approx(1.1)
    assert last["random"]["gain"] == pytest.approx(0.5)


def test_more_lines_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="11 lines: 10 can be told apart"):
        series([str(number) for number in range(11)])


def test_every_figure_is_drawn_of_the_results_that_are_kept(tmp_path: Path) -> None:
    kept = ROOT / "docs" / "findings"
    for name in ("claims.json", "steer.json"):
        (tmp_path / name).write_bytes((kept / name).read_bytes())
    (tmp_path / "rise.json").write_text(json.dumps(made_up()))
    drawn = draw(tmp_path)
    assert {file.name for file in drawn} >= {file.name for file in kept.glob("*.svg")} | {"rise.svg"}
    for file in drawn:
        text = file.read_text(encoding="utf-8")
        assert text.startswith("<svg")
        assert "NaN" not in text
    assert sum(file.stat().st_size for file in kept.glob("*.json")) <= 1_000_000


def test_the_figure_of_the_readme_is_what_its_results_say(tmp_path: Path) -> None:
    kept = ROOT / "docs" / "figures"
    (tmp_path / "readme.json").write_bytes((kept / "readme.json").read_bytes())
    for file in readme.draw(tmp_path):
        assert file.read_bytes() == (kept / file.name).read_bytes(), "make figures"
        assert file.stat().st_size < 150_000
        assert 820 <= float(re.search(r'width="([0-9.]+)"', file.read_text())[1]) <= 840


def test_what_the_readme_shows_is_what_the_store_says(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_world(store, make_world(3, make_record(), texts=12))
    found = readme.results_of(store, None)
    with connect(store) as database:
        isolation = metrics.jaccard_by_layer(database).sort("layer")
        similarity = metrics.pivot_similarity(database).sort("lang", "layer")
    assert [row["mean"] for row in found["isolation"]] == pytest.approx(isolation["isolation"].to_list(), abs=5e-5)
    assert [row["similarity"] for row in found["similarity"]] == pytest.approx(
        similarity["similarity"].to_list(), abs=5e-5
    )
