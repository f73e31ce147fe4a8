"""How fast metrics are, beside loops over Counters. `make bench-analytics`.

Roll-ups of 200 languages x 48 layers x 128 experts, top-8; every metric is asked for as people do, as a polars frame in
order, all 19,900 pairs of languages where it compares pairs. Once more from `--shards` times as many, compacted
(60 are 12,000 shards of 1.5 x 10^11 decisions, which take minutes to write). Then the
loops that studies write, on fewer languages, with the views on the same ones. Then `pivot_similarity` from profiles
under a memory limit of 2 GB. Wall seconds on all cores, medians of the rounds.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
import numpy as np

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.shard.shard import Shard
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.benchmarks.timing import median_seconds
from tests.support.stores import make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import duckdb

    from moetrace.store.format.records import RunRecord

LAYERS, EXPERTS, TOP_K, TOKENS = 48, 128, 8, 32768
PAIRED = {"jaccard", "jaccard_by_layer", "jaccard_by_language", "jaccard_by_pair", "divergence"}


def counts_of(languages: int) -> dict[str, np.ndarray]:
    """Draw counts [L, E] by routing a sample of tokens; languages of a family share a taste of experts."""
    rng = np.random.default_rng(0)
    sample = 256
    families = rng.standard_normal((10, LAYERS, EXPERTS), dtype=np.float32)
    found = {}
    for number in range(languages):
        taste = families[number % 10] + rng.standard_normal((LAYERS, EXPERTS), dtype=np.float32)
        logits = taste[:, None] + 1.5 * rng.standard_normal((LAYERS, sample, EXPERTS), dtype=np.float32)
        chosen = np.argpartition(logits, -TOP_K, axis=-1)[..., -TOP_K:].reshape(LAYERS, -1)
        counts = np.stack([np.bincount(row, minlength=EXPERTS) for row in chosen])
        found[f"l{number:03d}_Latn"] = counts * (TOKENS // sample)
    return found


def rolled_up(path: Path, counts: dict[str, np.ndarray], shards: int) -> Path:
    record = make_record(
        languages=list(counts), moe_layers=range(LAYERS), num_experts=EXPERTS, top_k=TOP_K, tables=("usage",)
    )
    with StoreWriter(path, record) as writer:
        for lang, count in counts.items():
            for number in range(shards):
                writer.write_counts(Counts(lang, number, TOKENS, 400, count, count / 3.0))
    return path


def profiled(
    path: Path,
    texts: int,
    languages: Sequence[str] = ("eng_Latn", "swh_Latn"),
    layers: int = LAYERS,
    experts: int = EXPERTS,
) -> Path:
    """Write languages with profiles of `texts` texts of one token each."""
    rng = np.random.default_rng(0)
    record: RunRecord = make_record(
        languages=languages,
        moe_layers=range(layers),
        num_experts=experts,
        top_k=TOP_K,
        tables=("sequences", "tokens", "profiles", "usage"),
    )
    with StoreWriter(path, record) as writer:
        for lang in record.corpus["languages"]:
            for number in range(-(-texts // 500)):
                size = min(500, texts - 500 * number)
                profiles = rng.random((layers, size, experts), dtype=np.float32)
                chosen = np.argpartition(profiles, -TOP_K, axis=-1)[..., -TOP_K:].transpose(0, 2, 1).astype(np.uint8)
                writer.write(
                    Shard(
                        lang=lang,
                        number=number,
                        seqs=np.arange(500 * number, 500 * number + size, dtype=np.int32),
                        text_ids=[str(500 * number + text) for text in range(size)],
                        lengths=np.ones(size, dtype=np.int32),
                        truncated=np.zeros(size, dtype=bool),
                        token_ids=np.zeros(size, dtype=np.int32),
                        experts=chosen,
                        weights=np.full(chosen.shape, 1 / TOP_K, dtype=np.float32),
                        profiles=profiles / profiles.sum(axis=-1, keepdims=True),
                    )
                )
    return path


def asked(connection: duckdb.DuckDBPyConnection) -> dict[str, Callable[[], object]]:
    """Return every metric that roll-ups are enough for."""
    found = {
        name: getattr(metrics, name)
        for name, view in views().items()
        if view.stage.startswith("3") and view.needs in {"usage", "run records"} and hasattr(metrics, name)
    }
    return {name: lambda function=function: function(connection) for name, function in found.items()}


def jaccard_loop(counters: dict[tuple[str, int], Counter[int]], languages: list[str]) -> None:
    """Overlap of the most used experts: a Counter for each language and layer, sets, a loop over pairs."""
    sets = {key: {expert for expert, _ in counter.most_common(TOP_K)} for key, counter in counters.items()}
    for layer in range(LAYERS):
        for a, b in combinations(languages, 2):
            _ = len(sets[a, layer] & sets[b, layer]) / len(sets[a, layer] | sets[b, layer])


def divergence_loop(counters: dict[tuple[str, int], Counter[int]], languages: list[str]) -> None:
    """Jensen-Shannon divergence by SciPy, pair after pair."""
    from scipy.spatial.distance import jensenshannon

    for layer in range(LAYERS):
        shares = {}
        for lang in languages:
            values = np.array([counters[lang, layer][expert] for expert in range(EXPERTS)], dtype=float)
            shares[lang] = values / values.sum()
        for a, b in combinations(languages, 2):
            _ = jensenshannon(shares[a], shares[b]) ** 2


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--languages", default=200, show_default=True)
@click.option("--shards", default=10, show_default=True, help="Shards of each language in the large store.")
@click.option("--looped", default=40, show_default=True, help="Languages of the loops.")
@click.option("--texts", default=2000, show_default=True, help="Texts of each of the two languages with profiles.")
def main(rounds: int, languages: int, shards: int, looped: int, texts: int) -> None:
    """Print the tables."""
    counts = counts_of(languages)
    print(f"{platform.machine()}, {os.cpu_count()} cores; wall seconds, medians of {rounds} rounds\n")
    print(f"| metric, {languages} languages x {LAYERS} x {EXPERTS} | seconds | from {shards} x the tokens | ratio |")
    print("|---|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        once, many = (rolled_up(Path(folder) / str(number), counts, number) for number in (1, shards))
        _row(
            "(compacting it)",
            *(median_seconds(lambda path=path: compact(Store(path), "run"), 1) for path in (once, many)),
        )
        opened = [connect(once), connect(many)]
        expected = sum(int(count.sum()) for count in counts.values()) * shards
        assert opened[1].sql("select sum(count) from usage_by_language").fetchall() == [(expected,)]
        opening = [median_seconds(lambda path=path: connect(path).close(), rounds) for path in (once, many)]
        _row("(opening the store)", *opening)
        for name, run in asked(opened[0]).items():
            _row(name, median_seconds(run, rounds), median_seconds(asked(opened[1])[name], rounds))
        few = list(counts)[:looped]
        part = connect(rolled_up(Path(folder) / "few", {lang: counts[lang] for lang in few}, 1))
        counters = {
            (lang, layer): Counter(dict(enumerate(counts[lang][layer].tolist())))
            for lang in few
            for layer in range(LAYERS)
        }
        print(f"\n| {looped} languages | loops | SQL | loops / SQL |\n|---|---:|---:|---:|")
        for name, loop in (("jaccard", jaccard_loop), ("divergence", divergence_loop)):
            slow = median_seconds(lambda loop=loop: loop(counters, few), 1)
            fast = median_seconds(asked(part)[name], rounds)
            print(f"| {name} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} |")
    with TemporaryDirectory() as folder:
        path = profiled(Path(folder) / "store", texts)
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            wall, cpu, peak = fresh.submit(similarity_cost, path, rounds).result()
        rows = 2 * texts * LAYERS * EXPERTS
        print("\n| pivot_similarity, 2 GB limit | rows | wall seconds | CPU seconds | M rows/s/core | peak MB |")
        print("|---|---:|---:|---:|---:|---:|")
        rate = rows / cpu / 1e6
        print(f"| {texts:,} texts x 2 languages | {rows:,} | {wall:.2f} | {cpu:.2f} | {rate:.2f} | {peak:,.0f} |")


def similarity_cost(path: Path, rounds: int) -> tuple[float, float, float]:
    """Return wall and CPU seconds of `pivot_similarity`, medians, and the peak of this process so far, in MB."""
    connection = connect(path, settings={"memory_limit": "2GB"})
    found = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        metrics.pivot_similarity(connection)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
    # Not ru_maxrss, in which a process has that of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return wall, cpu, peak * 1024 / 1e6


def _row(name: str, one: float, many: float) -> None:
    print(f"| {name} | {one:.2f} | {many:.2f} | {many / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
