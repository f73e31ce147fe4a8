"""Rounds of kills: writers of one run die and are started again until it is whole, while others use its store.

A round has a new store, one kind of writer (a trace, or an import of one format), one or two of them at a time, and
one or two processes beside them that verify, compact and read. What is drawn is drawn from the seed and the number of
the round; when processes get to run is not, so that a round again is one like it and not the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import select
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb
import numpy as np

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import MoetraceError
from moetrace.store.format import layout
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.read.reader import Store
from moetrace.store.storage.open import open_storage
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from tests.chaos import jobs
from tests.chaos.phases import Leftovers
from tests.support.answers import QUERIES
from tests.support.writer_server import ForkedProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.tally import Tally

KILLS = 16  # of a round, at most
NEVER = float("inf")
LONGEST = 90.0  # seconds that a process may take
BESIDE = {"verify_quick": 0.25, "verify_all": 0.2, "repair": 0.1, "read": 0.25, "compact_run": 0.2}
NAMES = {
    "verify_quick": "verifies, quick",
    "verify_all": "verifies, full",
    "repair": "repairs",
    "read": "reads",
    "compact_run": "compacts",
}

Contents = dict[tuple[str, str, int], str]  # the SHA-256 of each table of each shard


@dataclass(frozen=True)
class Kind:
    """A way of writing a run, what it must come to, and how long that takes where nobody disturbs it."""

    name: str
    job: str
    arguments: tuple[object, ...]
    contents: Contents
    numbers: jobs.Numbers
    expected: Path  # a file of `numbers`
    start: float = 0.0  # seconds until the first shard is begun
    shard: float = 0.0  # seconds of a shard

    @property
    def keys(self) -> set[str]:
        return set(self.numbers)

    @property
    def tables(self) -> int:
        return len({table for table, _, _ in self.contents})


def contents(place: str) -> Contents:
    opened = Store(place)
    return {
        (file.table, file.lang, file.shard): hashlib.sha256(opened.storage.read(file.path)).hexdigest()
        for table in TABLE_NAMES
        for file in opened.files(table)
    }


@dataclass
class Kinds:
    """The kinds of runs, each written undisturbed in a place when it is first asked for, to know what it must be."""

    folder: Path
    _made: dict[str, Kind] = field(default_factory=dict)

    def get(self, number: int, base: str) -> Kind:
        name = ("trace", "esft", "usage-json")[number % 3]
        place = f"{base}/undisturbed/{name}"
        if place not in self._made:
            self._made[place] = self._make(name, place)
        return self._made[place]

    def _make(self, name: str, place: str) -> Kind:
        folder = self.folder / str(len(self._made))
        folder.mkdir(parents=True)
        job, arguments = {
            "trace": lambda: ("trace", (0,)),
            "esft": lambda: ("import_esft", (jobs.esft_sources(folder / "esft"),)),
            "usage-json": lambda: ("import_usage_json", (jobs.usage_sources(folder / "usage"),)),
        }[name]()
        seconds = []
        for _ in range(2):  # the second finds nothing to do
            began = time.monotonic()
            process = ForkedProcess(f"tests.chaos.jobs:{job}", place, *arguments)
            assert process.wait(LONGEST) == 0, process.said
            seconds.append(time.monotonic() - began)
        with connect(place) as db:
            numbers = jobs.numbers(db)
        expected = folder / "expected.json"
        expected.write_text(json.dumps(numbers))
        whole, start = seconds
        shard = max(whole - start, 0.001) / len(numbers)
        return Kind(name, job, arguments, contents(place), numbers, expected, start, shard)


@dataclass(eq=False)
class Running:
    """A process of a round."""

    job: str
    process: ForkedProcess
    scratch: Path
    began: float
    kill_at: float = NEVER
    kill_after: tuple[int, float] | None = None  # how many commits before it dies, and how many seconds after the last
    killed: bool = False

    @property
    def dies(self) -> bool:
        """Tell whether it is to be killed."""
        return self.kill_at < NEVER or self.kill_after is not None

    def aim(self) -> None:
        """Set the time to die once the commit after which it is has been told of."""
        if self.kill_after and self.commits() >= self.kill_after[0]:
            self.kill_at = time.monotonic() + self.kill_after[1]
            self.kill_after = None

    def commits(self) -> int:
        return self.process.said.count(f"{jobs.COMMITTED} ")


@dataclass
class Round:
    """One store, from its first writer to the judgement of what came of it."""

    name: str
    place: str
    where: str  # local or s3
    kind: Kind
    folder: Path
    rng: np.random.Generator
    most_kills: int
    tally: Tally
    events: list[str] = field(default_factory=list)
    _running: list[Running] = field(default_factory=list)
    _failures: int = 0
    _wrong_shards: set[tuple[str, str]] = field(default_factory=set)
    _look: bool = True
    _whole: bool = False
    _is_store: bool = False
    _kills: int = 0
    _started: int = 0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._leftovers = Leftovers(self.place, self.kind.tables)

    def run(self) -> None:
        """Kill, resume, judge. What goes wrong is counted, and the round's folder says what happened."""
        self.folder.mkdir(parents=True)
        try:
            self._disturb()
            self._let_end()
            self.judge()
        finally:
            for running in self._running:
                running.process.kill()
        if self._failures:
            self._keep()
        else:
            shutil.rmtree(self.folder)

    @property
    def resumes(self) -> int:
        """Return how many writers were started after the first."""
        return max(self._started - 1, 0)

    def _disturb(self) -> None:
        together, beside = (int(self.rng.integers(1, 3)) for _ in range(2))
        if self.where == "s3":
            beside = 1  # the server is one process, and has enough to do
        self._log(f"{self.kind.name}, {together} writers, {beside} beside")
        while self._kills < self.most_kills and not self._is_whole():
            planned = self._kills + sum(running.dies for running in self._writers())
            for _ in range(together - len(self._writers())):
                dies = planned < self.most_kills
                self._start_writer(dies=dies)
                planned += dies
            self._start_beside(beside)
            self._wait()
        self._beside_at_end = beside

    def _let_end(self) -> None:
        """Let the writers that live end, then another, which must find or make a whole run."""
        for running in self._writers():
            running.kill_at, running.kill_after = NEVER, None
        while self._writers():
            self._start_beside(self._beside_at_end)
            self._wait()
        self._start_writer(dies=False)
        while self._running:
            if self._writers():
                self._start_beside(self._beside_at_end)
            self._wait()

    def judge(self) -> None:
        """Compare the store with one that nobody disturbed."""
        try:
            self._judge()
        except (MoetraceError, OSError, duckdb.Error) as error:  # files are missing or damaged
            self._wrong("failures", f"cannot be judged: {type(error).__name__}: {error}".splitlines()[0])

    def _judge(self) -> None:
        verdict = verify(self.place)
        for problem in verdict.problems:
            self._wrong("false alarms", f"verify at the end: {problem.path}: {problem.what}")
        for path in verdict.claims:
            self._wrong("failures", f"a claim is alive at the end: {path}")
        self.tally.work["orphans at the end"] += len(verdict.orphans)
        staged = [*verdict.unfinished, *self.folder.glob("tmp-*/moetrace-*")]
        self.tally.work["staging at the end"] += len(staged)
        keys = Counter(
            layout.shard_key(*shard[1:])
            for entry in open_storage(self.place).listing(layout.COMMITS)
            if (shard := layout.shard_of(entry.path))
        )
        for key in sorted(self.kind.keys - keys.keys()):
            self._wrong_shard("lost", key, "no commit record")
        for key, count in keys.items():
            if count > 1 or key not in self.kind.keys:
                self._wrong_shard("doubled", key, f"{count} commit records")
        found = contents(self.place)
        for table, lang, number in sorted(found.keys() | self.kind.contents.keys()):
            file = table, lang, number
            if found.get(file) != self.kind.contents.get(file):
                what = f"{table} is not what an undisturbed writer writes"
                self._wrong_shard("lost", layout.shard_key(lang, number), what)
        before = self._ask("before compact")
        compact(Store(self.place), jobs.RUN)
        after = self._ask("after compact")
        if not all(_alike(before[name], after[name]) for name in QUERIES):
            self._wrong("failures", "a compacted store answers otherwise")

    def _ask(self, when: str) -> dict[str, list[tuple[object, ...]]]:
        """Hold what SQL counts of each shard against what it must be; return other answers."""
        with connect(self.place) as db:
            found = jobs.numbers(db)
            for key, expected in self.kind.numbers.items():
                for name, value in expected.items():
                    got = found.get(key, {}).get(name, 0)
                    if not np.isclose(got, value, rtol=1e-12, atol=0):
                        kind = "doubled" if got > value else "lost"
                        self._wrong_shard(kind, key, f"{when}, {name} is {got}, should be {value}")
            return {name: db.sql(query).fetchall() for name, query in QUERIES.items()}

    def _writers(self) -> list[Running]:
        return [running for running in self._running if running.job == self.kind.job]

    def _is_whole(self) -> bool:
        """Tell whether all shards are committed; it is looked at where a writer has ended, for looking takes time."""
        if self._look:
            listed = open_storage(self.place).listing(layout.COMMITS) if self._has_format() else []
            self._whole = len(listed) >= len(self.kind.keys)
            self._look = False
        return self._whole

    def _has_format(self) -> bool:
        self._is_store = self._is_store or open_storage(self.place).has(layout.FORMAT)
        return self._is_store

    def _start_writer(self, *, dies: bool) -> None:
        self._started += 1
        arguments = (int(self.rng.integers(1 << 30)),) if self.kind.job == "trace" else self.kind.arguments
        running = self._start(self.kind.job, self.place, *arguments)
        commits = int(self.rng.choice(3, p=(0.55, 0.35, 0.1)))
        if dies and commits:
            running.kill_after = commits, self.rng.uniform(0, 1.3 * self.kind.shard)
        elif dies:
            running.kill_at = running.began + self.rng.uniform(0, self.kind.start + 2 * self.kind.shard)

    def _start_beside(self, most: int) -> None:
        beside = len(self._running) - len(self._writers())
        if beside < most and self._has_format():
            job = str(self.rng.choice(list(BESIDE), p=list(BESIDE.values())))
            arguments = (str(self.kind.expected),) if job == "read" else ()
            running = self._start(job, self.place, *arguments)
            if job == "compact_run" and self.rng.random() < 0.25:
                running.kill_at = running.began + self.rng.uniform(0, 0.1 if self.where == "local" else 1.5)

    def _start(self, job: str, *arguments: object) -> Running:
        scratch = self.folder / f"tmp-{len(self.events)}"
        scratch.mkdir()
        began = time.monotonic()
        process = ForkedProcess(f"tests.chaos.jobs:{job}", *arguments, environment={"TMPDIR": str(scratch)})
        running = Running(job, process, scratch, began)
        self._running.append(running)
        self._log(f"{job} {process.pid} starts")
        return running

    def _wait(self) -> None:
        """Wait until a process says something, ends or must die, or for a moment."""
        now = time.monotonic()
        next_kill = min(running.kill_at for running in self._running) if self._running else now
        readable, _, _ = select.select([r.process for r in self._running], [], [], max(0, min(next_kill - now, 0.05)))
        ended = [running for running in self._running if running.process in readable and not running.process.take_in()]
        for running in [*self._running]:
            running.aim()
            now = time.monotonic()
            if running in ended:
                self._end(running)
            elif now >= running.kill_at or now >= running.began + LONGEST:
                running.process.kill()
                running.killed = True
                self._end(running)

    def _end(self, running: Running) -> None:
        status = running.process.wait(LONGEST)
        self._running.remove(running)
        self._look = True
        now = time.monotonic()
        if running.killed and now >= running.began + LONGEST:
            self._wrong("failures", f"{running.job} did not end in {LONGEST:.0f} s")
        elif running.killed and status == -9 and running.job in BESIDE:
            self.tally.work["compacts, killed"] += 1
        elif running.killed and status == -9:
            had_begun = running.commits() > 0
            phase = self._leftovers.phase(running.process.pid, running.scratch, had_begun=had_begun)
            self._kills += 1
            self.tally.kills[self.where, phase] += 1
            self._log(f"{running.job} {running.process.pid} killed while {phase}")
        else:
            self._heed(running, status)

    def _heed(self, running: Running, status: int) -> None:
        """Count what a process did, and what it found wrong that cannot be: there is nothing wrong with any store."""
        said = running.process.said
        self._log(f"{running.job} {running.process.pid} ended {status}: {said.strip()}")
        beside = running.job in BESIDE
        self.tally.work[NAMES[running.job] if beside else "writers that ended"] += 1
        result = re.search(r"^\{.*\}$", said, re.MULTILINE)
        if status or not result:
            why = said.strip().splitlines()[-2:-1]
            self._wrong("false alarms" if beside else "failures", f"{running.job} failed: {''.join(why)}")
        elif beside:
            for what in json.loads(result[0])["wrong"]:
                self._wrong("false alarms", f"{running.job}: {what}")

    def _wrong_shard(self, kind: str, key: str, what: str) -> None:
        """Count a shard that is lost or doubled, once however it shows."""
        if (kind, key) not in self._wrong_shards:
            self._wrong_shards.add((kind, key))
            self._wrong(kind, f"{key}: {what}")

    def _wrong(self, kind: str, what: str) -> None:
        self._failures += 1
        self._log(f"{kind.upper()}: {what}")
        self.tally.went_wrong(kind, what)

    def _log(self, what: str) -> None:
        self.events.append(f"{time.monotonic() - self._began:9.4f} {what}\n")

    def _keep(self) -> None:
        """Keep what happened, and the store: one in a bucket goes with its server."""
        (self.folder / "events.txt").write_text("".join(self.events))
        if self.where != "local":
            storage = open_storage(self.place)
            for entry in storage.listing():
                copy = self.folder / "store" / entry.path
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(storage.read(entry.path))
        self.tally.failed.append(f"{self.name}: {self.folder}")


def _alike(one: list[tuple[object, ...]], other: list[tuple[object, ...]]) -> bool:
    """Tell whether two answers are the same, but for the last bits of sums of another order."""
    return len(one) == len(other) and all(
        left == right
        or (isinstance(left, float) and isinstance(right, float) and bool(np.isclose(left, right, 1e-12, 0)))
        for rows in zip(one, other, strict=True)
        for left, right in zip(*rows, strict=True)
    )


def storm(
    kills: dict[str, int], seed: int, folder: Path, bucket: str, tally: Tally, number: int = 0
) -> Iterator[Tally]:
    """Kill so many writers in each kind of place, `local` and `s3`; yield the tally after each round.

    `number` is the first round's, which says of what kind its writers are.
    """
    began = time.monotonic()
    kinds = Kinds(folder / "made")
    for where, wanted in kills.items():
        done = 0
        while done < wanted:
            base = str(folder) if where == "local" else bucket
            name = f"round-{number}"
            place = f"{base}/{name}/store"
            kind = kinds.get(number, base)
            rng = np.random.default_rng([seed, number])
            most = min(KILLS, wanted - done)
            before = tally.killed
            one = Round(f"seed {seed}, round {number}", place, where, kind, folder / name, rng, most, tally)
            one.run()
            tally.work["rounds"] += 1
            tally.work["resumes"] += one.resumes
            tally.work["seconds"] = round(time.monotonic() - began)
            done += tally.killed - before
            number += 1
            yield tally
