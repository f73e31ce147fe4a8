"""How long a store of many shards takes to open: the last table of `make bench-store`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from moetrace.analytics.database.connection import connect
from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.benchmarks.timing import median_seconds
from tests.support.stores import make_record

LANGUAGES, LAYERS, EXPERTS, TOP_K, TOKENS = 20, 48, 128, 8, 32768


def print_opening(shards: int, rounds: int) -> None:
    """Print the seconds that reading roll-ups and connecting take, before and after `compact`, and of one shard."""
    print(
        f"\nOpening {LANGUAGES} languages x {shards // LANGUAGES} shards, {LAYERS} x {EXPERTS} experts; wall seconds, "
        f"medians of {rounds} rounds\n"
    )
    print("| what | one shard a language | all shards | all, compacted |\n|---|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        few, many = (_made(Path(folder) / str(count), count) for count in (1, shards // LANGUAGES))
        found = [_seconds(few, rounds), _seconds(many, rounds)]
        compact(Store(many), "run")
        found.append(_seconds(many, rounds))
    for what, *seconds in zip(("roll-ups read", "`connect`, every view"), *found, strict=True):
        print(f"| {what} | " + " | ".join(f"{value:.3f}" for value in seconds) + " |")


def _made(path: Path, shards: int) -> Path:
    languages = [f"l{number:02d}_Latn" for number in range(LANGUAGES)]
    record = make_record(
        languages=languages, moe_layers=range(LAYERS), num_experts=EXPERTS, top_k=TOP_K, tables=("usage",)
    )
    count = np.random.default_rng(0).multinomial(TOKENS * TOP_K, np.ones(EXPERTS) / EXPERTS, size=LAYERS)
    writer = StoreWriter(path, record)
    for lang in languages:
        for number in range(shards):
            writer.write_counts(Counts(lang, number, TOKENS, 400, count, count / 3.0))
    return path


def _seconds(path: Path, rounds: int) -> list[float]:
    """Return the medians: from the listing of commit records to the sums of each language, and of `connect`."""
    return [median_seconds(lambda: _read(path), rounds), median_seconds(lambda: connect(path).close(), rounds)]


def _read(path: Path) -> None:
    store = Store(path)
    assert len(store.rollup_table("run")) == LANGUAGES * LAYERS * EXPERTS
