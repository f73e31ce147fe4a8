"""Fifty of the kills of `make chaos`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.harness import storm
from tests.chaos.tally import Tally
from tests.support.s3_server import BUCKET, s3_bucket, s3_server

if TYPE_CHECKING:
    from pathlib import Path


def survive(kills: dict[str, int], folder: Path) -> None:
    tally = Tally()
    for _ in storm(kills, 0, folder, f"s3://{BUCKET}", tally):
        pass
    assert tally.failures == 0, tally.table()
    assert tally.killed == sum(kills.values())
    assert all(tally.work[what] for what in ("resumes", "reads", "verifies, full"))


def test_forty_kills_lose_and_double_nothing_in_a_folder(tmp_path: Path) -> None:
    survive({"local": 40}, tmp_path)


def test_ten_kills_lose_and_double_nothing_in_a_bucket(tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="S3 needs the extra [s3]")
    with s3_server() as port, s3_bucket(port):
        survive({"s3": 10}, tmp_path)
