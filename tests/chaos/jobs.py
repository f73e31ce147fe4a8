"""What the processes do that `tests.chaos.harness` starts and kills; each writes a line of JSON at its end.

The server that forks them imports this module once, so nothing here may start a thread when it is imported.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections import deque
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.analytics.database.connection import connect
from moetrace.store.imports import FORMATS, ImportRequest, Source
from moetrace.store.progress import Progress
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.runs import shards as tracing
from moetrace.tracer.runs.engines import RestartedEngine
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.settings import TraceSettings
from tests.support.planned import planned
from tests.support.published import EXPERTS, TOP_K, random_task, write_task, write_usage
from tests.support.stores import make_world, shards_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from moetrace.store.format.records import CommitRecord
    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.plan.shards import PlannedShard

RUN = "run"
COMMITTED = "committed"  # how a line begins that a writer says of a shard
WORLD = make_world(seed=7, texts=14)  # of the traced run
TEXTS = 3  # of a shard
AHEAD = 2  # shards that the engine has under way
STEP = 0.002  # seconds that the engine takes for a shard, on average
WAIT = 0.02  # seconds between a trace's looks at what another is tracing: a tiny store's shard takes as long


def trace(place: str, seed: int) -> None:
    """Trace as `moetrace trace` does once its engine has started, with a stand-in for the engine."""
    tracing.WAIT = WAIT
    engine = StandInEngine(seed)
    with StoreWriter(place, WORLD.record) as writer, RestartedEngine(lambda: nullcontext(engine)) as engines:
        written = tracing._trace_all(engines, writer, planned_shards(), None, None, TraceSettings(), TracingAloud())
    say(shards=written.shards)


def import_esft(place: str, sources: dict[str, str]) -> None:
    _import("esft", place, sources, top_k=TOP_K, experts=EXPERTS, shard_tokens=7)


def import_usage_json(place: str, sources: dict[str, str]) -> None:
    _import("usage-json", place, sources)


def _import(file_format: str, place: str, sources: dict[str, str], **options: Any) -> None:
    request = ImportRequest(tuple(Source(Path(path), lang) for lang, path in sources.items()), RUN, **options)
    say(shards=FORMATS[file_format](place, request, Aloud()).written_shards)


def verify_quick(place: str) -> None:
    _verify(place, quick=True)


def verify_all(place: str) -> None:
    _verify(place, quick=False)


def repair(place: str) -> None:
    """Repair a store in which there is nothing to repair: what it took out would be missed."""
    _verify(place, quick=False, repair=True)


def _verify(place: str, *, quick: bool, repair: bool = False) -> None:
    verdict = verify(place, quick=quick, repair=repair)
    say(wrong=[f"{problem.path}: {problem.what}" for problem in verdict.problems], shards=verdict.shards)


def compact_run(place: str) -> None:
    store = Store(place)
    if RUN in store.runs:
        compact(store, RUN)
    say(wrong=[])


def read(place: str, expected: str) -> None:
    """Ask SQL for every shard; what it says must be what the commits that are seen say, whole shards and no others."""
    store = Store(place)
    with connect(store) as db:
        found, by_language = numbers(db), sums(db)
    seen = {commit.key for commit in store.commits}
    say(wrong=list(differences(seen, found, by_language, json.loads(Path(expected).read_text()))), shards=len(seen))


Numbers = dict[str, dict[str, float]]  # of each shard, by what was counted


def numbers(db: Any) -> Numbers:
    """Return what SQL adds up of each shard, from each table."""
    found: Numbers = {}
    for name, table, what in (
        ("count", "usage", "sum(count)"),
        ("weight", "usage", "sum(weight_sum)"),
        ("routes", "routes", "count(*)"),
        ("tokens", "tokens", "count(*)"),
        ("committed", "shards", "sum(tokens)"),
    ):
        rows = db.sql(f"select lang, shard, ({what})::double from {table} group by all").fetchall()
        for lang, shard, value in rows:
            found.setdefault(f"{lang}/{shard:05d}", {})[name] = value
    return found


def sums(db: Any) -> dict[str, float]:
    """Return each language's count, as roll-ups say: compacted ones, where the store has them."""
    return dict(db.sql("select lang, sum(count)::double from usage_by_language group by all").fetchall())


def differences(seen: set[str], found: Numbers, by_language: dict[str, float], expected: Numbers) -> Iterator[str]:
    """Yield where SQL and the commits disagree."""
    if found.keys() != seen:
        yield f"SQL has {sorted(found.keys() - seen)}, and lacks {sorted(seen - found.keys())}"
    for key in sorted(found):
        for name, value in expected.get(key, {}).items():
            if not math.isclose(found[key].get(name, math.nan), value, rel_tol=1e-12):
                yield f"{key}: {name} is {found[key].get(name)}, should be {value}"
    for lang in {key.partition("/")[0] for key in seen}:
        value = sum(expected.get(key, {}).get("count", 0) for key in seen if key.startswith(f"{lang}/"))
        if by_language.get(lang) != value:
            yield f"{lang}: the language's count is {by_language.get(lang)}, should be {value}"


def say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")


class Aloud(Progress):
    """Says at once which shards are committed, so that a kill can be aimed at what comes then."""

    def committed(self, commit: CommitRecord) -> None:
        sys.stdout.write(f"{COMMITTED} {commit.key}\n")
        sys.stdout.flush()


class TracingAloud(Aloud, TraceProgress):
    """Of a trace."""


@cache
def made_shards() -> dict[str, Shard]:
    return {shard.key: shard for shard in shards_of(WORLD, TEXTS)}


made_shards()  # before the fork


def planned_shards() -> list[PlannedShard]:
    """Return the plan that an engine would have made the shards of."""
    return [planned(shard) for shard in made_shards().values()]


class StandInEngine:
    """What `_trace_all` asks of a TracedEngine: shards in the order of their plan, a few under way at a time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self.on_cpu = self._random.random() < 0.5

    def trace(
        self,
        shards: Iterable[PlannedShard],
        on_tokens: Callable[[int], None],
        generation: object,  # noqa: ARG002  the interface of an engine
        memory: tracing.Outlet,
        token_filter: object,  # noqa: ARG002
        steered_by: object,  # noqa: ARG002
    ) -> Iterator[Shard]:
        under_way: deque[PlannedShard] = deque()
        for shard in shards:
            memory.reserve(shard.key, 1 << 16, wait=True)
            under_way.append(shard)
            if len(under_way) == AHEAD:
                yield self._finish(under_way.popleft(), on_tokens)
        while under_way:
            yield self._finish(under_way.popleft(), on_tokens)

    def _finish(self, planned: PlannedShard, on_tokens: Callable[[int], None]) -> Shard:
        time.sleep(self._random.expovariate(1 / STEP))
        on_tokens(planned.tokens)
        made = made_shards()[planned.key]
        return texts_of(made, int(planned.seqs[0] - made.seqs[0]), planned.texts)


def esft_sources(folder: Path) -> dict[str, str]:
    """Write a task a language; return their paths."""
    lengths = {"deu_Latn": (3, 5, 7, 2, 6, 4, 8, 1, 7), "eng_Latn": (6, 6, 3, 4, 5, 9, 2, 7, 5)}
    return {
        lang: str(write_task(folder / lang, random_task(seed, lengths[lang])))
        for seed, lang in enumerate(sorted(lengths))
    }


def usage_sources(folder: Path) -> dict[str, str]:
    """Write counts of a dozen languages; return their paths."""
    folder.mkdir()
    rng, sources = np.random.default_rng(5), {}
    for number in range(12):
        tokens = int(rng.integers(20, 90))
        chosen = np.argsort(rng.random((2, tokens, EXPERTS)), axis=-1)[..., :TOP_K]
        count = np.stack([np.bincount(layer.ravel(), minlength=EXPERTS) for layer in chosen])
        lang = f"l{number:02d}_Latn"
        sources[lang] = str(write_usage(folder / f"{lang}.json", count, tokens))
    return sources
