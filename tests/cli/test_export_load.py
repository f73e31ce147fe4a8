"""What `moetrace export` tells of loads, and of a rule that cannot be applied."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from moetrace.cli.main import run
from moetrace.store.mask import read_mask
from tests.support.commands import failure
from tests.support.published import STATS, import_files, write_stats
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a mask beside it, and a run of which frequencies alone are known."""
    path = tmp_path_factory.mktemp("load")
    write_world(path / "store", make_world(1, make_record("run", moe_layers=range(2, 10))))
    stats = write_stats(path / "routing_stats.json", STATS, experts=5, top_k=2, layers=3)
    import_files("rise-stats", path / "frequencies", str(stats))
    rise = ["export", "rise", str(path / "store"), "--target", "swh_Latn", "--budget", "20", "--min-count", "0"]
    assert run([*rise, "-o", str(path / "like.json")]) == 0
    return path


def test_the_load_of_a_control_is_told(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, like = tmp_path / "control.json", str(folder / "like.json")
    words = ["export", "random", str(folder / "store"), "--like", like, "--exclude", like, "--match", "load"]
    assert run([*words, "-o", str(file)]) == 0
    captured, mask = capsys.readouterr(), read_mask(file)
    load = mask["strategy"]["parameters"]["load"]
    assert load["got"] == mask["summary"]["load"]["target"]
    assert load["asked"] == read_mask(like)["summary"]["load"]["target"]
    wrote, told = captured.err.splitlines()
    assert wrote == f"{file}: 20 experts for swh_Latn"
    assert told.startswith(
        f"load of swh_Latn: {load['got']:.4f}, that of the mask it is a control for {load['asked']:.4f}"
    )
    assert captured.out == ""
    assert run([*words, "--explain", "-o", str(file)]) == 0
    explained = capsys.readouterr()
    assert told in explained.out.splitlines()
    assert explained.err.splitlines() == [wrote]


@pytest.mark.parametrize("words", ["rise --budget 4", "gap --layers 1", "top-k --budget 4"])
def test_a_rule_that_cannot_be_applied_is_told(words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strategy, *options = words.split()
    call = ["export", strategy, str(folder / "frequencies"), "--target", "swh_Latn", *options]
    assert run(call) == 0
    captured = capsys.readouterr()
    mask = json.loads(captured.out)
    parameters = mask["strategy"]["parameters"]
    assert parameters["min_count"] is None
    assert captured.err == f"run 'run': --min-count 30 {parameters['min_count_note']}\n"
    assert {item["count"] for item in mask["experts"]} == {None}
    assert 0 < mask["summary"]["load"]["target"] < 1
    assert run([*call, "--explain"]) == 0
    explained = capsys.readouterr()
    assert captured.err.strip() in explained.err.splitlines()
    assert "count" not in explained.err.splitlines()[1].split()
    assert json.loads(explained.out) == mask


def test_what_stands_for_no_counts_cannot_be_shrunk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("export", "rise", folder / "frequencies", "--target", "swh_Latn", "--budget", 4, "--shrinkage", 1)
    assert "--shrinkage cannot be applied; leave it out" in failure(capsys, *call)
