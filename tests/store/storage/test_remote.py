"""A store in an object store: the same rules on a real S3 server on loopback, moto's."""

from __future__ import annotations

import signal
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.errors import StoreError
from moetrace.store.format.layout import claim_path
from moetrace.store.format.sealed import sealed_text
from moetrace.store.read.reader import Store
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.faults import FaultPoint
from moetrace.store.storage.open import open_storage
from moetrace.store.storage.remote import RemoteStorage
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.support.answers import QUERIES
from tests.support.s3_server import BUCKET, s3_bucket, s3_server
from tests.support.writer_process import WORLD, all_shards, write_all
from tests.support.writer_server import ForkedWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARDS, FIRST = 5, "eng_Latn"

pytest.importorskip("s3fs", reason="S3 needs the extra [s3]")


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def settings(server: int) -> Iterator[dict[str, str]]:
    with s3_bucket(server) as said:
        yield said


@pytest.fixture
def url(settings: dict[str, str]) -> str:
    assert settings
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("local") / "store"
    write_all(str(path), SHARDS)
    return path


def start(url: str, settings: dict[str, str], fault: str = "") -> ForkedWriter:
    return ForkedWriter(url, SHARDS, environment=settings, fault=fault)


def require_same(url: str, local: Path) -> None:
    """Fail unless the store is whole and answers as the local one does."""
    verdict = verify(url)
    assert (verdict.problems, verdict.claims) == ([], [])
    assert verdict.shards == len(all_shards(SHARDS))
    remote, here = connect(url), connect(local)
    for query in QUERIES.values():
        found, expected = ([value for row in db.sql(query).fetchall() for value in row] for db in (remote, here))
        # Sums of another order may differ in their last bits.
        assert found == [pytest.approx(value, rel=1e-12) if isinstance(value, float) else value for value in expected]


def test_what_is_written_there_is_what_is_read_there(url: str, local: Path) -> None:
    assert write_all(url, SHARDS) == len(all_shards(SHARDS))
    require_same(url, local)
    assert write_all(url, SHARDS) == 0
    assert verify(url, quick=True).problems == []
    assert verify(url).orphans == []
    rows = Store(url).scan("routes", languages=[FIRST]).collect()
    assert rows.height == sum(shard.experts.size for shard in all_shards(SHARDS) if shard.lang == FIRST)
    compact(Store(url), "run")
    require_same(url, local)


def test_the_commands_take_a_url(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for shard in all_shards():
        if shard.number == 0:
            StoreWriter(url, WORLD.record).write(shard)
    assert moetrace(["ls", url]) == 0
    assert "eng_Latn" in capsys.readouterr().out
    assert moetrace(["sql", url, "select count(*) as n from usage", "--format", "csv"]) == 0
    assert capsys.readouterr().out.split() == ["n", "72"]
    assert moetrace(["sql", url, "select * from read_parquet('s3://bucket/other.parquet')"]) == 1
    assert "disabled by configuration" in capsys.readouterr().err
    mask = tmp_path / "mask.json"
    export = ["export", "rise", url, "--target", "swh_Latn", "--budget", "4", "--min-count", "0"]
    assert moetrace([*export, "-o", str(mask)]) == 0
    assert mask.is_file()
    assert moetrace(["verify", url]) == 0
    assert moetrace(["compact", url]) == 0


@pytest.mark.parametrize(
    "point", [FaultPoint.RUN_WRITTEN, FaultPoint.SYNCED, FaultPoint.PUBLISHED_FIRST, FaultPoint.COMMITTED]
)
def test_a_writer_killed_at_any_step_loses_and_doubles_nothing(
    url: str, settings: dict[str, str], point: FaultPoint, local: Path
) -> None:
    assert start(url, settings, point.value).wait(timeout=120) == -signal.SIGKILL
    assert verify(url).problems == []
    before = len(Store(url).commits)
    assert before == (point is FaultPoint.COMMITTED)
    assert write_all(url, SHARDS) == len(all_shards(SHARDS)) - before
    require_same(url, local)


class Murderer:
    """Passes a process's bytes on to the server, and kills the process when it has sent so many."""

    def __init__(self, port: int, after: int) -> None:
        self._port, self._left = port, after
        self.victim: ForkedWriter | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass_on, args=(source, sink), kwargs={"counted": counted}, daemon=True
                ).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, counted: bool) -> None:
        try:
            while content := source.recv(1 << 12):
                if counted:
                    sink.sendall(content[: max(self._left, 0)])
                    self._left -= len(content)
                    if self._left <= 0 and self.victim:
                        self.victim.kill()
                        break
                else:
                    sink.sendall(content)
        except OSError:
            pass
        sink.close()

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("after", [9_000, 15_000, 21_000, 40_000, 100_000])
def test_a_writer_killed_in_the_middle_of_an_upload_leaves_nothing_half_done(
    url: str, settings: dict[str, str], server: int, after: int, local: Path
) -> None:
    between = Murderer(server, after)
    between.victim = start(url, {**settings, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{between.port}"})
    assert between.victim.wait(timeout=120) == -signal.SIGKILL
    between.close()
    if open_storage(url).has("store.json"):
        assert verify(url).problems == []
        assert len(Store(url).commits) < len(all_shards(SHARDS))
    write_all(url, SHARDS)
    require_same(url, local)


def test_two_writers_share_the_work(url: str, settings: dict[str, str], local: Path) -> None:
    processes = [start(url, settings) for _ in range(2)]
    assert sum(process.finish(timeout=120) for process in processes) == len(all_shards(SHARDS))
    require_same(url, local)


def test_a_damaged_object_is_named_and_never_read(url: str, local: Path) -> None:
    write_all(url, SHARDS)
    storage = open_storage(url)
    path = "profiles/run=run/lang=eng_Latn/00001.parquet"
    content = bytearray(storage.read(path))
    content[100] ^= 8
    storage.replace(path, bytes(content))
    assert [problem.path for problem in verify(url).problems] == [path]
    with pytest.raises(Exception, match="damaged near byte 0"):
        connect(url).sql(QUERIES["profiles"]).fetchall()
    before = {entry.path: storage.read(entry.path) for entry in storage.listing()}
    verdict = verify(url, repair=True)
    assert len(verdict.done) == 1
    moved = "eng_Latn/00001"
    for path, content in before.items():
        assert storage.read(f"{verdict.quarantine}/{path}" if moved in path else path) == content
    assert write_all(url, SHARDS) == 1
    require_same(url, local)


def test_damaged_records_are_mended_and_runs_taken_out_there_as_well(url: str, local: Path) -> None:
    write_all(url, SHARDS)
    storage = open_storage(url)
    for path in ("store.json", "runs/run.json"):
        content = storage.read(path)
        for broken in (b"", content.replace(b"r", b"x", 1)):
            storage.replace(path, broken)
            with pytest.raises(StoreError, match=r"store.json|runs/run.json"):
                _ = Store(url).runs
            assert len(verify(url, repair=True).done) == 1
            assert storage.read(path) == content
    require_same(url, local)
    assert moetrace(["rm", url, "--run", "run", "--yes"]) == 0
    assert Store(url).runs == {}
    assert verify(url).problems == []
    assert write_all(url, SHARDS) == len(all_shards(SHARDS))
    require_same(url, local)


def test_a_claim_is_void_by_the_clock_of_the_bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(url)
    claim = {"machine": "another", "process": 1, "started": "1", "id": "x", "run_sha256": "a" * 64, "renewed": 1e12}
    storage.create(claim_path("run", "eng_Latn", 0), sealed_text(claim).encode())
    assert abs(storage.now() - time.time()) < 5
    with Claims(storage, "run", "a" * 64) as claims:
        assert not claims.take("eng_Latn", 0)
    monkeypatch.setattr(RemoteStorage, "now", lambda _: time.time() + 3600)  # the bucket's clock, an hour later
    with Claims(storage, "run", "a" * 64) as claims:
        assert claims.take("eng_Latn", 0)
    assert storage.listing("claims") == []


def test_a_name_that_is_taken_is_not_written_over(url: str, tmp_path: Path) -> None:
    storage = open_storage(url)
    assert isinstance(storage, RemoteStorage)
    one, other = "runs/a.json", "runs/b.json"
    assert storage.create(one, b"1")
    assert not storage.create(one, b"2")
    (tmp_path / "file").write_bytes(b"3")
    assert not storage.publish(tmp_path / "file", one)
    assert storage.read(one) == b"1"
    assert storage.publish(tmp_path / "file", other)
    assert storage.read_range(other, 0, 99) == b"3"
    storage.delete(other)
    storage.delete(other)
    assert [entry.path for entry in storage.listing()] == [one]
    assert storage.stat(other) is None
    with pytest.raises(StoreError, match="is no path of a store"):
        storage.read("a")
    with pytest.raises(StoreError, match="has more than 0 bytes"):
        storage.read(one, 0)
    with Claims(storage, "run", "a" * 64) as mine, Claims(storage, "run", "a" * 64) as theirs:
        assert mine.take("eng_Latn", 0)
        assert not theirs.take("eng_Latn", 0)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://nowhere/store", "no such store"),
        ("nothing://x/store", "nothing://x/store: Protocol not known: nothing"),
    ],
)
def test_a_place_that_is_not_there_is_one_line(settings: dict[str, str], place: str, message: str) -> None:
    assert settings
    with pytest.raises(StoreError, match=message):
        Store(place)
    with pytest.raises(StoreError):
        StoreWriter(place, WORLD.record)


def test_any_filesystem_with_exclusive_writes_will_do(local: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/store"
    assert write_all(url, SHARDS) == len(all_shards(SHARDS))
    require_same(url, local)


def test_temporary_files_of_processes_that_are_gone_are_removed(
    url: str, settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = ForkedWriter(url, SHARDS, environment={**settings, "TMPDIR": str(tmp_path)}, fault=FaultPoint.SYNCED.value)
    assert killed.wait(timeout=120) == -signal.SIGKILL
    (left,) = tmp_path.glob("moetrace-*")
    assert len(list(left.iterdir())) == 5
    storage = open_storage(url)
    with storage.staging() as mine:
        assert storage.sweep() == [str(left)]
        assert list(tmp_path.iterdir()) == [mine]
