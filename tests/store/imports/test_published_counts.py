"""Runs of which only counts or frequencies were published: what can be asked of them, and what nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.analytics.report import write_report
from moetrace.cli.main import run as moetrace
from moetrace.store.read.reader import Store
from tests.reference.metrics import METRICS
from tests.support.published import (
    STATS,
    USAGE,
    import_files,
    write_stats,
    write_usage,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two runs that have roll-ups only."""
    folder = tmp_path_factory.mktemp("counted")
    usage = write_usage(folder / "usage.json", USAGE, 4)
    import_files("usage-json", folder / "store", f"en={usage}", run="counts")
    stats = write_stats(folder / "routing_stats.json", STATS, experts=5, top_k=2, layers=3)
    import_files("rise-stats", folder / "store", str(stats), run="frequencies")
    return folder / "store"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_asked_of_runs_with_roll_ups_only(name: str, counted: Path) -> None:
    rows = connect(counted).sql(f"from {name} where run = 'frequencies'").pl()
    of_rollups = {"usage", "run records", "commit records"}
    assert rows.is_empty() == bool(set(views()[name].needs.split(", ")) - of_rollups)


def test_what_roll_ups_do_not_say_is_null(counted: Path) -> None:
    entropy = metrics.routing_entropy(connect(counted))
    assert entropy["entropy"].null_count() == 0
    assert entropy["probability_entropy"].null_count() == len(entropy)
    activation = connect(counted).sql("select run, count(weight_mean) > 0 from activation group by 1 order by 1")
    assert activation.fetchall() == [("counts", True), ("frequencies", False)]


def test_frequencies_stand_for_no_number_of_tokens(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Store(counted).run("frequencies")
    assert record.nominal_tokens
    assert record.settings["tokens"] == "nominal"
    assert record.model["id"] == "Made-Up-MoE"
    assert not Store(counted).run("counts").nominal_tokens
    frequency = "select frequency from activation where run = 'frequencies' and lang = 'eng_Latn' and layer = 0"
    assert connect(counted).sql(f"{frequency} order by expert").fetchall() == [(1,), (0.75,), (0.25,), (0,), (0,)]
    assert moetrace(["ls", str(counted)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines if line[:1] == ["en"]] == [["en", "1/1", "-", "4"]]
    assert [(line[:4], line[-1]) for line in lines if line[:1] == ["eng_Latn"]] == [
        (["eng_Latn", "1/1", "-", "-"], "-")
    ]


@pytest.mark.parametrize("run", ["counts", "frequencies"])
def test_a_report_says_what_nobody_knows(run: str, counted: Path, tmp_path: Path) -> None:
    page = write_report(counted, tmp_path / "report.html", run=run).read_text(encoding="utf-8")
    assert "1,000,000,000" not in page
    assert "unknown" in page
    assert ">None<" not in page
