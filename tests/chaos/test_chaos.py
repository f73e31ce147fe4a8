"""Fifty of the kills of `make chaos`, and that it sees what is lost, doubled and changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.format import layout
from tests.chaos import jobs
from tests.chaos.harness import NAMES, Kinds, Round, storm
from tests.chaos.tally import Tally
from tests.support.s3_server import BUCKET, s3_bucket, s3_server

if TYPE_CHECKING:
    from pathlib import Path


def survive(kills: dict[str, int], folder: Path, number: int = 0) -> None:
    tally = Tally()
    for _ in storm(kills, 0, folder, f"s3://{BUCKET}", tally, number):
        pass
    assert tally.failures == 0, tally.table()
    assert tally.killed == sum(kills.values())
    assert tally.work["resumes"]
    assert sum(tally.work[beside] for beside in NAMES.values())


def test_a_shard_that_is_lost_doubled_or_changed_is_counted(tmp_path: Path) -> None:
    kind = Kinds(tmp_path / "made").get(0, str(tmp_path))
    store, tally = tmp_path / "undisturbed" / "trace", Tally()
    lost, doubled, changed = (store / layout.commit_path(jobs.RUN, lang, 0) for lang in sorted(jobs.WORLD.texts))
    lost.unlink()
    doubled.with_name("00099.json").write_bytes(doubled.read_bytes())
    data = store / layout.data_path("usage", jobs.RUN, changed.parent.name.removeprefix("lang="), 0)
    content = data.read_bytes()
    data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    seen = Round("a round", str(store), "local", kind, tmp_path / "round", np.random.default_rng(0), 0, tally)
    seen.judge()
    assert {name: found.total() for name, found in tally.wrong.items()} == {
        "lost": 1,
        "doubled": 1,
        "false alarms": 2,  # of the file that was changed, and of the record that stands twice
        "failures": 1,  # it cannot be queried
    }


def test_a_reader_that_sees_part_of_a_shard_says_so() -> None:
    whole = {"a/00000": {"count": 4.0, "routes": 4.0}, "a/00001": {"count": 6.0, "routes": 6.0}}
    both = set(whole)
    assert not list(jobs.differences(both, whole, {"a": 10.0}, whole))
    assert not list(jobs.differences({"a/00000"}, {"a/00000": whole["a/00000"]}, {"a": 4.0}, whole))
    part = {**whole, "a/00001": {"count": 6.0, "routes": 5.0}}
    assert list(jobs.differences(both, part, {"a": 10.0}, whole)) == ["a/00001: routes is 5.0, should be 6.0"]
    assert list(jobs.differences(both, whole, {"a": 4.0}, whole)) == ["a: the language's count is 4.0, should be 10.0"]
    assert list(jobs.differences({"a/00000"}, whole, {"a": 4.0}, whole)) == ["SQL has ['a/00001'], and lacks []"]


def test_forty_kills_lose_and_double_nothing_in_a_folder(tmp_path: Path) -> None:
    survive({"local": 40}, tmp_path)


def test_ten_kills_lose_and_double_nothing_in_a_bucket(tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="S3 needs the extra [s3]")
    with s3_server() as port, s3_bucket(port):
        survive({"s3": 10}, tmp_path, number=2)  # roll-ups only: a trace of five tables takes three times as long
