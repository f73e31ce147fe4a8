"""A synthetic trace that tests let several processes do, and what its store must come to."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from moetrace.store.format import layout
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.read.reader import Store
from moetrace.store.storage.open import open_storage
from moetrace.store.verify.verify import verify
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.runs.settings import TraceSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SHAPE = "6x16x2"
RUN = "together"
LANGUAGES = ("deu_Latn", "eng_Latn", "swh_Latn")
SHARD_TOKENS = 256
Contents = dict[tuple[str, str, int], str]


def write_corpus(folder: Path, languages: Sequence[str] = LANGUAGES, texts: int = 160) -> Path:
    """Write texts of some twenty tokens."""
    folder.mkdir(exist_ok=True)
    for lang in languages:
        rows = (
            {"id": str(number), "text": f"{lang} text {number} " + "word " * (number % 9)} for number in range(texts)
        )
        (folder / f"{lang}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def settings(rate: float | None = None, **options: object) -> TraceSettings:
    """Return the settings of the job; `rate`: tokens a second of each worker."""
    engine = EngineSettings(synthetic=True, rate=rate, max_num_batched_tokens=64)
    return TraceSettings(shard_tokens=SHARD_TOKENS, writers=1, engine=engine, **options)  # type: ignore[arg-type]


def command(corpus: Path, store: str | Path, *more: str, rate: float | None = None, run: str = RUN) -> list[str]:
    """Return the same job as a command line."""
    return [
        *(sys.executable, "-m", "moetrace.cli.main", "trace", SHAPE, "--engine", "synthetic", "--corpus", str(corpus)),
        *("--store", str(store), "--run", run, "--shard-tokens", str(SHARD_TOKENS), "--writers", "1"),
        *("--max-num-batched-tokens", "64", *(("--rate", str(rate)) if rate else ()), *more),
    ]


def start(line: list[str]) -> subprocess.Popen[str]:
    """Start a command whose processes are a group of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def contents(place: str | Path, run: str = RUN) -> Contents:
    """Return the SHA-256 of each table of each shard."""
    opened = Store(place)
    return {
        (file.table, file.lang, file.shard): hashlib.sha256(opened.storage.read(file.path, 1 << 30)).hexdigest()
        for table in TABLE_NAMES
        for file in opened.files(table)
        if file.run == run
    }


def require_whole(place: str | Path, expected: Contents, run: str = RUN) -> None:
    """Hold a store against what one process made of the job: byte for byte, nothing more, nothing left over."""
    assert contents(place, run) == expected
    verdict = verify(place)
    assert not verdict.problems, verdict.problems
    assert not verdict.orphans
    assert not open_storage(place).listing(layout.CLAIMS)


def claimants(place: str | Path) -> set[int]:
    """Return the processes that have a claim at this moment."""
    storage, found = open_storage(place), set()
    for entry in storage.listing(layout.CLAIMS):
        try:
            found.add(int(json.loads(storage.read(entry.path))["process"]))
        except FileNotFoundError:
            continue
    return found


def wait_until(what: Callable[[], object], seconds: float = 120.0) -> object:
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"nothing came of {what} in {seconds:g} s"
        time.sleep(0.02)
    return found


def committed(place: str | Path, run: str = RUN) -> int:
    """Return how many shards of the run are in the store."""
    return sum(1 for entry in open_storage(place).listing(f"{layout.COMMITS}/run={run}") if layout.shard_of(entry.path))
