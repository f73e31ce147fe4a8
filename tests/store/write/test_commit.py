"""Processes that die, race or run out of disk: readers see whole shards only, and what goes on ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import StoreError
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.read.reader import Store
from moetrace.store.storage.faults import FaultPoint
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.paths import ROOT
from tests.support.stores import make_record, make_shard, make_world
from tests.support.writer_process import WORLD, all_shards, write_all
from tests.support.writer_server import ForkedWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LANG = "eng_Latn"


def start(store: Path, fault: FaultPoint | None = None) -> ForkedWriter:
    return ForkedWriter(str(store), fault=fault.value if fault else "")


def contents(store: Path) -> dict[tuple[str, str, int], pl.DataFrame]:
    """Return every table of every shard."""
    opened = Store(store)
    return {
        (name, file.lang, file.shard): pl.read_parquet(file.location, hive_partitioning=False)
        for name in TABLE_NAMES
        for file in opened.files(name)
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], pl.DataFrame]:
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    assert write_all(str(path)) == len(all_shards())
    return contents(path)


def require_same(store: Path, expected: dict[tuple[str, str, int], pl.DataFrame]) -> None:
    verdict = verify(store)
    assert (verdict.problems, verdict.claims) == ([], [])
    found = contents(store)
    assert found.keys() == expected.keys()
    assert all(rows.equals(expected[key]) for key, rows in found.items())  # bit for bit


@pytest.mark.parametrize("point", list(FaultPoint), ids=lambda point: point.value)
def test_a_process_killed_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, point: FaultPoint, undisturbed: dict[tuple[str, str, int], pl.DataFrame]
) -> None:
    store = tmp_path / "store"
    process = start(store, point)
    assert process.wait(timeout=120) == -signal.SIGKILL
    if (store / "store.json").exists():
        assert verify(store).problems == []
        seen = contents(store)
        assert all(rows.equals(undisturbed[key]) for key, rows in seen.items())
    before = len(Store(store).commits) if (store / "store.json").exists() else 0
    assert before == (point in {FaultPoint.COMMITTED, FaultPoint.RELEASED})
    assert write_all(str(store)) == len(all_shards()) - before
    require_same(store, undisturbed)


def test_twenty_five_kills_at_random_times_change_nothing(
    tmp_path: Path, undisturbed: dict[tuple[str, str, int], pl.DataFrame]
) -> None:
    store, rng, killed = tmp_path / "store", np.random.default_rng(0), 0
    for _ in range(25):
        process = start(store)
        assert process.readline() == "begin\n"
        try:
            process.wait(timeout=rng.uniform(0, 0.06))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
        if (store / "store.json").exists():
            assert verify(store).problems == []
    assert killed > 10
    write_all(str(store))
    require_same(store, undisturbed)


def test_four_writers_share_the_work(tmp_path: Path, undisturbed: dict[tuple[str, str, int], pl.DataFrame]) -> None:
    processes = [start(tmp_path / "store") for _ in range(4)]
    assert sum(process.finish(timeout=120) for process in processes) == len(all_shards())
    require_same(tmp_path / "store", undisturbed)
    assert verify(tmp_path / "store").orphans == []


def test_whoever_commits_second_throws_its_copy_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = all_shards()[0]
    slow, fast = StoreWriter(tmp_path, WORLD.record), StoreWriter(tmp_path, WORLD.record)
    commits = []
    publish = slow._publish_all

    def overtaken(*arguments: object) -> object:
        published = publish(*arguments)  # type: ignore[arg-type]
        commits.append(fast.write(shard))
        return published

    monkeypatch.setattr(slow, "_publish_all", overtaken)
    assert [slow.write(shard)] == commits == Store(tmp_path).commits
    verdict = verify(tmp_path)
    assert (verdict.problems, verdict.orphans) == ([], [])


def test_a_put_whose_answer_was_lost_is_not_taken_for_a_lost_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = StoreWriter(tmp_path, WORLD.record)
    create = writer.storage.create
    monkeypatch.setattr(
        writer.storage, "create", lambda path, content, **options: create(path, content, **options) and "claims" in path
    )
    commit = writer.write(all_shards()[0])
    assert Store(tmp_path).commits == [commit]
    assert verify(tmp_path).problems == []


def test_different_runs_are_written_side_by_side(tmp_path: Path) -> None:
    for name in ("one", "two"):
        world = make_world(seed=len(name), record=make_record(run=name), texts=3)
        StoreWriter(tmp_path, world.record).write(make_shard(world.record, LANG, 0, 0, world.texts[LANG]))
    assert [(commit.run, commit.shard) for commit in Store(tmp_path).commits] == [("one", 0), ("two", 0)]


def test_the_claim_of_a_dead_process_is_void_at_once(tmp_path: Path) -> None:
    # Started from scratch: the fault that its environment asks for is armed where a process imports it.
    command = [sys.executable, "-m", "tests.support.writer_process", str(tmp_path / "store")]
    environment = {**os.environ, "MOETRACE_FAULT": FaultPoint.CLAIMED.value}
    killed = subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "store" / "claims").rglob("*.json"))
    assert verify(tmp_path / "store").claims == []


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["/bin/umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "size=600k")


def test_a_full_disk_is_one_line_and_writing_goes_on_when_there_is_space(
    small_disk: Path, undisturbed: dict[tuple[str, str, int], pl.DataFrame]
) -> None:
    store = small_disk / "store"
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); what was committed is safe"):
        write_all(str(store))
    committed = len(Store(store).commits)
    assert 0 < committed < len(all_shards())
    verdict = verify(store)
    assert (verdict.problems, verdict.orphans, verdict.unfinished) == ([], [], [])
    subprocess.run(["/bin/mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert write_all(str(store)) == len(all_shards()) - committed
    require_same(store, undisturbed)


def test_a_read_only_store_is_read_and_refuses_to_be_written(small_disk: Path) -> None:
    store = small_disk / "store"
    shard = all_shards()[0]
    StoreWriter(store, WORLD.record).write(shard)
    subprocess.run(["/bin/mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert verify(store).problems == []
    assert connect(store).sql("select sum(tokens) from shards").fetchall() == [(shard.tokens,)]
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\)"):
        StoreWriter(store, WORLD.record).write(shard)
