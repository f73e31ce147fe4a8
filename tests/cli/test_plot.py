"""`moetrace plot` as a person types it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.plots import SECTIONS
from moetrace.cli.main import run
from tests.support.commands import failure
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_world(tmp_path / "store", make_world(3, make_record(), texts=12))
    return tmp_path / "store"


def test_a_chart_is_written_as_its_file_is_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--choose", "measure=divergence", "--columns", "2"]
    assert run(["plot", "pairs", str(store), *chosen, "-o", str(tmp_path / "pairs.svg")]) == 0
    assert capsys.readouterr() == ("", f"{tmp_path / 'pairs.svg'}\n")
    assert "Jensen-Shannon divergence" in (tmp_path / "pairs.svg").read_text()
    assert run(["--quiet", "plot", "specificity", str(store), "--lang", "swh_Latn", "-o", str(tmp_path / "s.csv")]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "s.csv").read_text().startswith("lang,layer,expert,")


def test_the_help_has_a_line_for_every_chart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plot", "--help"]) == 0
    listed = re.findall(r"^  ([a-z_]+)  +[a-z]", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(SECTIONS)


def test_bad_input_is_one_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("-o", tmp_path / "plot.svg")
    assert "no plot is called heat; there are isolation" in failure(capsys, "plot", "heat", store, *out)
    assert "no such store" in failure(capsys, "plot", "pairs", tmp_path / "nothing", *out)
    assert "xho_Latn" in failure(capsys, "plot", "specificity", store, "--lang", "xho_Latn", *out)
    assert "cannot be chosen" in failure(capsys, "plot", "pairs", store, "--choose", "layers=9", *out)
    assert run(["plot", "pairs", str(store), "--choose", "layers", *map(str, out)]) == 2
    assert "say NAME=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "plot.svg").exists()
