"""Many processes make one store, with Ray on loopback and without it: whoever dies, its bytes are those of one process.

The engine is the synthetic one, so that what is tested is the sharing. Ray is started anew for each test, in processes
of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.format import layout
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.tracer.runs import cluster
from moetrace.tracer.runs.cluster import trace_with_workers
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.trace import trace
from moetrace.tracer.runs.workers import Workers
from tests.support.poisoned_worker import POISON, PoisonedWorker
from tests.support.s3_server import BUCKET, s3_bucket, s3_server
from tests.support.synthetic_job import (
    RUN,
    SHAPE,
    Contents,
    claimants,
    command,
    committed,
    contents,
    require_whole,
    settings,
    start,
    wait_until,
    write_corpus,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moetrace.tracer.runs.trace import TraceResult

pytestmark = pytest.mark.cluster

RATE = 1500.0  # tokens a second of a worker: some twelve seconds of work for one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "texts")


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What one process makes of the job."""
    store = tmp_path_factory.mktemp("expected") / "store"
    trace(SHAPE, str(corpus), store, run=RUN, settings=settings())
    return contents(store)


class Watched(TraceProgress):
    """Remembers what a driver says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tokens = 0
        self.seen: dict[int, tuple[str, int]] = {}

    def stage(self, message: str, total: int | None = None) -> None:  # noqa: ARG002
        self.said.append(message)

    def advance(self, count: int = 1) -> None:
        self.tokens += count

    def workers(self, states: Mapping[int, tuple[str, int]]) -> None:
        self.seen |= states


def together(corpus: Path, store: Path | str, count: int, rate: float | None = None) -> tuple[TraceResult, Watched]:
    watched = Watched()
    result = trace_with_workers(
        SHAPE, str(corpus), store, Workers(count), run=RUN, settings=settings(rate), progress=watched
    )
    return result, watched


@contextmanager
def meanwhile(work: object) -> Iterator[None]:
    """Do something in a thread beside what is in the block; raise what goes wrong there."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(120)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("count", [2, 4])
def test_ray_workers_make_the_store_of_one_process(
    corpus: Path, expected: Contents, tmp_path: Path, count: int
) -> None:
    result, watched = together(corpus, tmp_path / "store", count, rate=6000.0)
    require_whole(tmp_path / "store", expected)
    shards = len(expected) // 5
    assert result.written_shards == shards
    assert result.plan.shards == shards
    assert watched.tokens == result.plan.tokens
    assert sum(done for _, done in watched.seen.values()) == shards


def test_commands_that_know_nothing_of_each_other_make_it_too(corpus: Path, expected: Contents, tmp_path: Path) -> None:
    running = [start(command(corpus, tmp_path / "store", rate=3000.0)) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    require_whole(tmp_path / "store", expected)
    written = [int(found.group(1)) for text in said if (found := re.search(r": (\d+) shards, ", text))]
    assert sum(written) == len(expected) // 5


def test_workers_that_are_killed_are_started_again(corpus: Path, expected: Contents, tmp_path: Path) -> None:
    store, killed = tmp_path / "store", set[int]()

    def kill_two() -> None:
        for after in (2, 8):
            wait_until(lambda after=after: committed(store) >= after)
            victim = next(iter(wait_until(lambda: claimants(store) - killed)))  # type: ignore[call-overload]
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)

    with meanwhile(kill_two):
        result, watched = together(corpus, store, 2, RATE)
    assert len(killed) == 2
    assert len([said for said in watched.said if "died; it is started again" in said]) == 2
    require_whole(store, expected)
    assert result.skipped_shards + result.written_shards == len(expected) // 5


def alive(process: int) -> bool:
    """Tell whether a process is there; one that has ended and that nobody has asked about is not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def test_a_driver_that_is_killed_costs_nothing(corpus: Path, expected: Contents, tmp_path: Path) -> None:
    store = tmp_path / "store"
    driver = start(command(corpus, store, "--workers", "2", rate=RATE / 4))
    wait_until(lambda: committed(store) >= 3)
    workers = claimants(store)
    driver.kill()
    driver.wait(30)
    wait_until(lambda: not any(alive(worker) for worker in workers), 60)
    there = committed(store)
    assert 3 <= there < len(expected) // 5
    result, _ = together(corpus, store, 2)
    assert result.skipped_shards >= there
    require_whole(store, expected)
    again, _ = together(corpus, store, 2)
    assert (again.written_shards, again.skipped_shards) == (0, len(expected) // 5)


def test_a_worker_that_stands_still_keeps_only_its_own_shards(corpus: Path, expected: Contents, tmp_path: Path) -> None:
    store, shards = tmp_path / "store", len(expected) // 5

    def stop_one() -> None:
        wait_until(lambda: committed(store) >= 2)
        slow = next(iter(wait_until(lambda: claimants(store))))  # type: ignore[call-overload]
        os.kill(slow, signal.SIGSTOP)
        try:
            wait_until(lambda: committed(store) >= shards - 8)
            time.sleep(1)
            assert committed(store) < shards
        finally:
            os.kill(slow, signal.SIGCONT)

    with meanwhile(stop_one):
        together(corpus, store, 2, RATE)
    require_whole(store, expected)


def test_a_bucket_is_written_by_all(tmp_path: Path) -> None:
    corpus, alone = write_corpus(tmp_path / "texts", ("eng_Latn",), texts=100), tmp_path / "alone"
    trace(SHAPE, str(corpus), alone, run=RUN, settings=settings())
    with s3_server() as port, s3_bucket(port):
        store = f"s3://{BUCKET}/together"
        together(corpus, store, 2)
        require_whole(store, contents(alone))


def test_two_jobs_share_a_store(corpus: Path, expected: Contents, tmp_path: Path) -> None:
    store, other = tmp_path / "store", write_corpus(tmp_path / "other", ("fra_Latn",), texts=40)
    alone = tmp_path / "alone"
    trace(SHAPE, str(other), alone, run="other", settings=settings())
    beside = start(command(other, store, "--workers", "2", rate=RATE, run="other"))
    together(corpus, store, 2, RATE)
    assert beside.wait(60) == 0, beside.communicate()[1]
    require_whole(store, expected)
    require_whole(store, contents(alone, "other"), "other")


NODES = """
import os, sys, threading, time
from ray.cluster_utils import Cluster
from tests.support.synthetic_job import RUN, SHAPE, committed, settings, wait_until
from moetrace.tracer.runs.cluster import trace_with_workers
from moetrace.tracer.runs.workers import Workers

corpus, store, rate = sys.argv[1], sys.argv[2], float(sys.argv[3])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
leaving = cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address

def leave():
    wait_until(lambda: committed(store) >= 4)
    cluster.remove_node(leaving, allow_graceful=False)

thread = threading.Thread(target=leave)
thread.start()
result = trace_with_workers(
    SHAPE, corpus, store, Workers(2, "ray", cpus=1.0), run=RUN, settings=settings(rate)
)
thread.join()
print("written", result.written_shards, "of", result.plan.shards)
cluster.shutdown()
"""


def test_a_node_that_leaves_a_cluster_takes_nothing_with_it(corpus: Path, expected: Contents, tmp_path: Path) -> None:
    store = tmp_path / "store"
    line = [sys.executable, "-c", NODES, str(corpus), str(store), str(RATE)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"of {len(expected) // 5}" in done.stdout
    require_whole(store, expected)


def test_a_text_that_kills_workers_is_set_aside_and_costs_nothing_else(
    corpus: Path, expected: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (lang, seq) = tmp_path / "store", POISON
    monkeypatch.setattr(cluster, "Worker", PoisonedWorker)
    result, watched = together(corpus, store, 2)
    assert result.failed == 1
    deaths = [said for said in watched.said if "died; it is started again" in said]
    assert len(deaths) >= 2, "one death proves nothing about a text"
    opened = Store(store)
    (record,) = opened.set_aside()
    (text,) = record.texts
    assert (record.lang, text.seq, text.kind) == (lang, seq, "failed")
    found, spoiled = contents(store), {(table, lang, record.shard) for table in TABLE_NAMES}
    assert {key: found[key] for key in expected if key not in spoiled} == {
        key: expected[key] for key in expected if key not in spoiled
    }
    commit = next(commit for commit in opened.commits if (commit.lang, commit.shard) == (lang, record.shard))
    rows = opened.dataset("sequences", RUN, [lang]).to_table(columns=["seq"]).column("seq").to_pylist()
    assert sorted(rows) == [number for number in range(160) if number != seq]
    assert commit.sequences > 2, "the shard is not worth a bisection"
    assert not verify(store).problems
    assert not opened.storage.listing(layout.ATTEMPTS)
    again, _ = together(corpus, store, 2)
    assert (again.written_shards, again.failed, again.failed_before) == (0, 0, 1)


@pytest.mark.engine
def test_workers_with_vllm_make_the_store_of_one(tmp_path: Path) -> None:
    def line(store: Path, *more: str) -> list[str]:
        asked = ("--lang", "eng_Latn", "--lang", "swh_Latn", "--limit", "30", "--shard-tokens", "256", "--run", RUN)
        trace = (sys.executable, "-m", "moetrace.cli.main", "trace", "bundled", "--corpus", "bundled")
        return [*trace, "--store", str(store), "--dtype", "float32", *asked, *more]

    for store, more in ((tmp_path / "one", ()), (tmp_path / "two", ("--workers", "2"))):
        running = start(line(store, *more))
        _, said = running.communicate(timeout=240)
        assert running.returncode == 0, said
    one, two = (rollups(tmp_path / name) for name in ("one", "two"))
    assert one["count"].sum() == two["count"].sum() > 0
    # Batches differ, and with them the last bits of a float32: hardly a decision changes.
    assert np.abs(one["count"] - two["count"]).sum() <= 0.002 * one["count"].sum()
    np.testing.assert_allclose(one["probability_sum"], two["probability_sum"], rtol=2e-3)
    assert not verify(tmp_path / "two").problems


def rollups(place: Path) -> dict[str, np.ndarray]:
    rows = (
        Store(place)
        .dataset("usage", RUN)
        .to_table()
        .sort_by([(name, "ascending") for name in ("lang", "shard", "layer", "expert")])
    )
    return {name: rows.column(name).to_numpy() for name in ("count", "probability_sum")}


def test_errors_of_a_worker_or_of_the_plan_are_one_line(tmp_path: Path) -> None:
    lacking = start(command(tmp_path / "nothing", tmp_path / "store", "--workers", "2"))
    _, said = lacking.communicate(timeout=60)
    assert lacking.returncode == 1
    assert "moetrace: corpus" in said
    assert "no such folder or file" in said
    assert "Traceback" not in said
    nowhere = start(command(write_corpus(tmp_path / "texts"), tmp_path / "store", "--cluster", "ray"))
    _, said = nowhere.communicate(timeout=60)
    assert nowhere.returncode == 1
    assert "--cluster ray: Ray has no cluster there" in said
    assert "Traceback" not in said
    assert not (tmp_path / "store").exists()
