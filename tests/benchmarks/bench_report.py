"""What `moetrace report` takes, by page: seconds, memory, size. `make bench-report`.

The pages are those of `make reports`, whose stores are made where they are missing, one of 200 languages of roll-ups
alone, and one of 20 languages of 1,000 texts, 307 million routing decisions. Each is a process of its own, its start
included; medians of the rounds.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tests.benchmarks.bench_uncertainty import routed
from tests.experiments.reports import REPORTS
from tests.support.many_languages import write_many


def measured(words: list[str]) -> tuple[float, float, float]:
    """Run a command of moetrace's; return its wall seconds, CPU seconds and peak memory in MB."""
    begin = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    program = [sys.executable, "-m", "moetrace.cli.main", *words]
    _, status, used = os.wait4(os.posix_spawn(program[0], program, os.environ, file_actions=quiet), 0)
    if status:
        raise SystemExit(f"{' '.join(words)}: ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--reports", type=click.Path(path_type=Path), default=Path("moetrace-reports"), show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(data: Path, reports: Path, rounds: int) -> None:
    """Print the table."""
    reports.mkdir(exist_ok=True)
    for name, build in REPORTS.items():
        if not (reports / f"{name}.html").exists():
            build(data, reports)
    print(f"{platform.machine()}, {os.cpu_count()} cores; medians of {rounds} rounds\n")
    print("| page | MB | seconds | CPU seconds | peak MB |\n|---|---:|---:|---:|---:|")
    with TemporaryDirectory() as made:
        folder = Path(made)
        write_many(folder / "many")
        routed(folder / "texts", languages=20, texts=1000, tokens=40)
        udhr, page = str(reports / "udhr"), folder / "page.html"
        for name, words in {
            "UDHR, 24 languages x 49 texts, 8 x 32": [udhr, "--run", "float32"],
            "the same, `--replicates 0`": [udhr, "--run", "float32", "--replicates", "0"],
            "the same in float32 and bfloat16": [udhr, "--run", "float32", "--run", "bfloat16"],
            "counts alone, 6 languages, 48 x 128": [str(reports / "qwen3")],
            "counts alone, 200 languages, 48 x 128": [str(folder / "many")],
            "20 languages x 1,000 texts, 48 x 128": [str(folder / "texts")],
        }.items():
            found = [measured(["report", *words, "-o", str(page)]) for _ in range(rounds)]
            wall, cpu, peak = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"| {name} | {page.stat().st_size / 1e6:.2f} | {wall:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
