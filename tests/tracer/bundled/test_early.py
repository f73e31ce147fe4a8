"""The trace of an early checkpoint that the package keeps: whole, small, and put beside a run of today's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import StoreError
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.tracer.bundled import EARLY, EARLY_RUN
from moetrace.tracer.bundled.early import begin_with_early
from tests.support.stores import make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_a_whole_store_of_less_than_a_megabyte() -> None:
    assert verify(EARLY).problems == []
    assert sum(path.stat().st_size for path in EARLY.rglob("*") if path.is_file()) <= 1_000_000
    record = Store(EARLY).run(EARLY_RUN)
    assert sum(record.corpus["texts"].values()) == 720
    assert record.model["id"] == "moetrace-micro-early"


def test_a_store_begins_with_it_once(tmp_path: Path) -> None:
    store = tmp_path / "new" / "store"
    begin_with_early(store)
    assert list(Store(store).runs) == [EARLY_RUN]
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    begin_with_early(store)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    assert [path.name for path in store.parent.iterdir()] == ["store"]


def test_a_store_without_it_is_left_alone(tmp_path: Path) -> None:
    write_world(tmp_path / "store", make_world(seed=1))
    with pytest.raises(StoreError, match="a store without the run `early`: name another folder"):
        begin_with_early(tmp_path / "store")
    assert EARLY_RUN not in Store(tmp_path / "store").runs
