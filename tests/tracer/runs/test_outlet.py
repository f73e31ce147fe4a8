"""Captured shards take no more memory than was allowed, the engine waits rather than growing, and all are written."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.runs.outlet import Outlet, default_writers
from tests.support.stores import make_record, make_shard, make_world

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.format.records import CommitRecord
    from moetrace.store.shard.shard import Shard


@pytest.fixture
def writer(tmp_path: Path) -> StoreWriter:
    return StoreWriter(tmp_path / "store", make_record())


@pytest.fixture
def shards(writer: StoreWriter) -> list[Shard]:
    texts = make_world(1, writer.record).texts["eng_Latn"]
    return [make_shard(writer.record, "eng_Latn", number, number, texts[number : number + 1]) for number in range(3)]


class HeldBack:
    """A writer that waits with every shard until it may go on."""

    def __init__(self, writer: StoreWriter) -> None:
        self.writer, self.go_on, self.begun = writer, threading.Event(), threading.Semaphore(0)

    def write(self, shard: Shard) -> CommitRecord:
        self.begun.release()
        assert self.go_on.wait(20)
        return self.writer.write(shard)


def test_what_does_not_fit_is_refused_or_waited_for(writer: StoreWriter) -> None:
    with Outlet(writer, limit=100) as outlet:
        assert outlet.reserve("a", 60, wait=False)
        assert not outlet.reserve("b", 60, wait=False)
        outlet.give_back("a")
        assert outlet.reserve("b", 60, wait=False)
        assert outlet.peak == 60


def test_waiting_ends_when_a_shard_is_given_back(writer: StoreWriter) -> None:
    with Outlet(writer, limit=100) as outlet:
        outlet.reserve("a", 60, wait=False)
        written = threading.Timer(0.2, outlet.give_back, ["a"])
        written.start()
        started = time.monotonic()
        assert outlet.reserve("b", 60, wait=True)
        assert time.monotonic() - started > 0.1, "it did not wait"


def test_a_shard_larger_than_everything_says_what_to_do(writer: StoreWriter) -> None:
    with (
        Outlet(writer, limit=2**20) as outlet,
        pytest.raises(MoetraceError, match=r"eng/0 takes 4 MiB.*--max-memory allows \(1 MiB\)"),
    ):
        outlet.reserve("eng/0", 2**22, wait=True)


@pytest.mark.parametrize("background", [True, False])
def test_waiting_for_memory_writes_what_was_put(
    writer: StoreWriter, shards: list[Shard], monkeypatch: pytest.MonkeyPatch, *, background: bool
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    with Outlet(writer, limit=100, background=background) as outlet:
        assert outlet.reserve(shards[0].key, 60, wait=False)
        outlet.put(shards[0])
        assert outlet.reserve(shards[1].key, 60, wait=True)
        assert writer.committed() == {shards[0].key}
        assert outlet.peak == 60


def test_beside_the_engine_putting_does_not_wait_for_the_disk(writer: StoreWriter, shards: list[Shard]) -> None:
    slow, told = HeldBack(writer), []
    with Outlet(slow, background=True, committed=lambda commit: told.append(commit.key)) as outlet:  # type: ignore[arg-type]
        for shard in shards:
            outlet.put(shard)
        assert slow.begun.acquire(timeout=20)
        assert not slow.begun.acquire(blocking=False), "more than one thread writes while the engine runs"
        assert told == []
        slow.go_on.set()
    assert told == [shard.key for shard in shards]


def test_on_a_cpu_the_engine_pauses_while_every_core_writes_a_shard(
    writer: StoreWriter, shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    slow, told = HeldBack(writer), []
    with Outlet(slow, background=False, committed=lambda commit: told.append(commit.key)) as outlet:  # type: ignore[arg-type]
        outlet.put(shards[0])
        assert not slow.begun.acquire(timeout=0.1), "a shard was written before there was one for each core"
        threading.Timer(0.1, slow.go_on.set).start()
        outlet.put(shards[1])
        assert told == [shards[0].key, shards[1].key]
        outlet.put(shards[2])
        assert len(told) == 2
    assert told == [shard.key for shard in shards]


def test_beside_the_engine_as_many_shards_are_written_at_once_as_there_are_writers(
    writer: StoreWriter, shards: list[Shard], tmp_path: Path
) -> None:
    slow, told = HeldBack(writer), []
    with Outlet(slow, writers=2, committed=lambda commit: told.append(commit.key)) as outlet:  # type: ignore[arg-type]
        for shard in shards:
            outlet.put(shard)
        assert slow.begun.acquire(timeout=20)
        assert slow.begun.acquire(timeout=20)
        assert not slow.begun.acquire(timeout=0.1), "three shards are written at once"
        slow.go_on.set()
    assert told == [shard.key for shard in shards]
    assert {commit.key for commit in Store(tmp_path / "store").commits} == set(told)


@pytest.mark.parametrize(("cores", "beside", "alone"), [(1, 1, 1), (2, 1, 2), (4, 3, 4), (16, 4, 16)])
def test_writers_by_default_leave_the_engine_its_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, beside: int, alone: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert default_writers(background=True) == beside
    assert default_writers(background=False) == alone


@pytest.mark.parametrize("background", [True, False])
def test_an_error_between_shards_loses_none_that_was_put(
    writer: StoreWriter, shards: list[Shard], tmp_path: Path, *, background: bool
) -> None:
    def interrupted() -> None:
        with Outlet(writer, background=background) as outlet:
            outlet.put(shards[0])
            outlet.put(shards[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {commit.key for commit in Store(tmp_path / "store").commits} == {shards[0].key, shards[1].key}


def test_a_shard_that_cannot_be_written_is_said_and_its_memory_is_free_again(
    writer: StoreWriter, shards: list[Shard]
) -> None:
    shards[0].experts[:] = 200
    outlet = Outlet(writer, limit=100)

    def written() -> None:
        with outlet:
            outlet.reserve(shards[0].key, 100, wait=False)
            outlet.put(shards[1])
            outlet.put(shards[0])

    with pytest.raises(CaptureError):
        written()
    assert outlet.reserve("another", 100, wait=False)
    assert writer.committed() == {shards[1].key}
