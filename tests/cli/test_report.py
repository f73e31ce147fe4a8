"""`moetrace report` as a person types it: a run, two runs, and what cannot be asked together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run
from tests.support.commands import failure
from tests.support.report_page import Page
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "store"
    for name in ("base", "tuned"):
        write_world(folder, make_world(3, make_record(name), texts=8))
    return folder


def usage_error(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """What is said of arguments that do not go together."""
    assert run([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_one_of_several_runs(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("lang,score\ndeu_Latn,0.8\nswh_Latn,0.3\n")
    options = ["--run", "tuned", "--scores", str(scores), "--replicates", "50"]
    assert run(["report", str(store), *options, "-o", str(tmp_path / "tuned.html")]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'tuned.html'}\n", "")
    page = Page(tmp_path / "tuned.html")
    assert "run tuned" in " ".join(page.text[""].split())
    assert "50 draws of" in page.text["isolation"]
    assert "needs three languages" in page.text["scores"]


def test_two_runs_of_a_store_and_of_two_stores(store: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "other", make_world(5, make_record("base"), texts=8))
    both, others = tmp_path / "both.html", tmp_path / "others.html"
    assert run(["report", str(store), "--run", "base", "--run", "tuned", "--replicates", "50", "-o", str(both)]) == 0
    assert "base and tuned" in Page(both).text[""]
    assert (
        run(["report", str(store), str(tmp_path / "other"), "--run", "base", "--replicates", "0", "-o", str(others)])
        == 0
    )
    assert "store: base and other: base" in Page(others).text[""]


def test_bad_input_is_one_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    out, two = ("-o", page), ("--run", "base", "--run", "tuned")
    assert "3 runs: name one, or two to lay side by side" in usage_error(
        capsys, "report", store, *two, "--run", "tuned", *out
    )
    assert "--mask and --scores are of the page of one run" in usage_error(
        capsys, "report", store, *two, "--scores", "scores.csv", *out
    )
    assert "would be compared with itself" in failure(capsys, "report", store, "--run", "base", "--run", "base", *out)
    assert "replicates 1: pass 0" in failure(capsys, "report", store, "--run", "base", "--replicates", "1", *out)
    assert "no run 'tunde'; did you mean tuned" in failure(capsys, "report", store, "--run", "tunde", *out)
    assert "no such store" in failure(capsys, "report", store, tmp_path / "nothing", "--run", "base", *out)
    assert not page.exists()


def test_a_chart_of_two_stores(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(tmp_path / "other", make_world(5, make_record("tuned"), texts=8))
    table = tmp_path / "entropy.csv"
    assert run(["plot", "entropy", str(store), str(tmp_path / "other"), "--run", "tuned", "-o", str(table)]) == 0
    drawn = pl.read_csv(table)
    assert drawn["run"].unique().sort().to_list() == ["other: tuned", "store: tuned"]
    for place, name in ((store, "store: tuned"), (tmp_path / "other", "other: tuned")):
        with connect(place) as connection:
            entropy = connection.sql("from routing_entropy() where run = 'tuned'").pl()
        expected = entropy.group_by("layer").agg(pl.col("entropy_normalized").mean()).sort("layer")
        assert drawn.filter(pl.col("run") == name)["value"].to_list() == pytest.approx(
            expected["entropy_normalized"].to_list()
        )
    capsys.readouterr()
    out = ("-o", tmp_path / "plot.svg")
    assert "leave them out" in usage_error(
        capsys, "plot", "entropy", store, tmp_path / "other", "--lang", "deu_Latn", *out
    )
    assert "has 2 runs (base, tuned); say which" in failure(capsys, "plot", "entropy", store, tmp_path / "other", *out)


def test_a_chart_of_two_runs(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = ["--run", "base", "--run", "tuned"]
    assert run(["plot", "agreement", str(store), *two, "-o", str(tmp_path / "agreement.csv")]) == 0
    header = (tmp_path / "agreement.csv").read_text().partition("\n")[0]
    assert header.startswith("run,depth,layer,value")
    assert run(["plot", "entropy_languages", str(store), *two, "-o", str(tmp_path / "entropy.svg")]) == 0
    assert "difference of entropy" in (tmp_path / "entropy.svg").read_text()
    capsys.readouterr()
    out = ("-o", tmp_path / "plot.svg")
    assert "no plot is called agreement; there are isolation" in failure(
        capsys, "plot", "agreement", store, "--run", "base", *out
    )
    assert "no plot of two runs is called pairs" in failure(capsys, "plot", "pairs", store, *two, *out)
    assert "3 runs: name one, or two" in usage_error(capsys, "plot", "moved", store, *two, "--run", "base", *out)
    assert "leave them out" in usage_error(capsys, "plot", "moved", store, *two, "--lang", "deu_Latn", *out)
