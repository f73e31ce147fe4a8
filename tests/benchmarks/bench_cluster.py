"""What a second worker brings, and what the driver takes. `make bench-cluster`.

Synthetic engines of 48 layers x 128 experts, top-8, each worker pinned to a core of its own, with one writer. Shards a
second are told from the times of the commit records after the first, so that starting Ray and the engines is left out;
one and two workers in turns. The driver's CPU is its share of a core while the workers work; its memory is what it has
after ten looks at workers of a job of so many planned shards.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import click

from moetrace.store.format import layout
from moetrace.store.storage.open import open_storage
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.runs.cluster import trace_with_workers
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.settings import TraceSettings
from moetrace.tracer.runs.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN = "bench"


class Driver(TraceProgress):
    """Watches what the driver takes from the first shard on; ends the job after so many looks, where it is told to."""

    def __init__(self, looks: int | None = None) -> None:
        self.looks, self.began = looks, (0.0, 0.0)

    def workers(self, states: Mapping[int, tuple[str, int]]) -> None:
        if self.began == (0.0, 0.0) and any(shards for _, shards in states.values()):
            self.began = perf_counter(), process_time()
        if self.looks is not None and states:
            self.looks -= 1
            if not self.looks:
                raise KeyboardInterrupt

    def share(self) -> float:
        return (process_time() - self.began[1]) / (perf_counter() - self.began[0])


def write_corpus(folder: Path, texts: int, words: int) -> Path:
    folder.mkdir()
    with (folder / "eng_Latn.jsonl").open("w", encoding="utf-8") as out:
        for number in range(texts):
            text = " ".join(str((number * 7919 + word * 104729) % 997) for word in range(words))
            out.write(json.dumps({"id": str(number), "text": text}) + "\n")
    return folder


def settings(shard_tokens: int, rate: float | None = None) -> TraceSettings:
    return TraceSettings(shard_tokens=shard_tokens, writers=1, engine=EngineSettings(synthetic=True, rate=rate))


def shards_a_second(store: Path) -> float:
    listed = open_storage(store).listing(f"{layout.COMMITS}/run={RUN}")
    times = sorted(entry.modified for entry in listed if layout.shard_of(entry.path))
    return (len(times) - 1) / (times[-1] - times[0])


def memory(corpus: Path, shards: int) -> float:
    """Return the MB that a driver has, in a process of its own, of a job of so many shards."""
    line = [sys.executable, "-m", "tests.benchmarks.bench_cluster", "--driver-of", str(corpus)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shards"] == shards
    return float(found["mb"])


def drive(corpus: str) -> None:
    """Start a job whose shards have a text each, look at it ten times, print what this process has in memory."""

    class Planned(Driver):
        def planned(self, plan: object, skipped_tokens: int) -> None:  # noqa: ARG002
            self.plan = plan

    driver = Planned(looks=10)
    with tempfile.TemporaryDirectory() as folder:
        try:
            trace_with_workers(
                "2x8x2",
                corpus,
                Path(folder) / "store",
                Workers(1),
                run=RUN,
                settings=settings(1, 100.0),
                progress=driver,
            )
        except KeyboardInterrupt:
            print("looked at", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"shards": driver.plan.shards, "mb": peak}))  # type: ignore[attr-defined]


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--texts", default=12_000, show_default=True)
@click.option("--shards", "planned", multiple=True, type=int, default=(1_000, 100_000), show_default=True)
@click.option("--driver-of", hidden=True)
def main(rounds: int, texts: int, planned: tuple[int, ...], driver_of: str | None) -> None:
    if driver_of is not None:
        drive(driver_of)
        return
    found: dict[int, list[float]] = {1: [], 2: []}
    shares: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as folder:
        corpus, cores = write_corpus(Path(folder) / "texts", texts, 20), sorted(os.sched_getaffinity(0))
        for number in range(rounds):
            for count in (1, 2) if number % 2 == 0 else (2, 1):
                store, driver = Path(folder) / f"store-{number}-{count}", Driver()
                os.sched_setaffinity(0, cores[:count])  # what is started has no more than these
                try:
                    trace_with_workers(
                        "48x128x8",
                        str(corpus),
                        store,
                        Workers(count),
                        run=RUN,
                        settings=settings(8192),
                        progress=driver,
                    )
                finally:
                    os.sched_setaffinity(0, cores)
                found[count].append(shards_a_second(store))
                shares[count].append(driver.share())
        print("| workers | shards/s (8,192 tokens) | M decisions/s | of one worker | driver, share of a core |")
        print("|---:|---:|---:|---:|---:|")
        for count, rates in found.items():
            rate = statistics.median(rates)
            ratio = statistics.median(many / one for one, many in zip(found[1], rates, strict=True))
            print(
                f"| {count} | {rate:.2f} | {rate * 8192 * 48 * 8 / 1e6:.1f} | {ratio:.2f} "
                f"| {statistics.median(shares[count]):.3f} |"
            )
        print("\n| planned shards | driver, MB |\n|---:|---:|")
        for shards in planned:
            print(f"| {shards:,} | {memory(write_corpus(Path(folder) / str(shards), shards, 3), shards):.0f} |")


if __name__ == "__main__":
    main()
