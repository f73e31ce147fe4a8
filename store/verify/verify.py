"""Checking a store: every file against its commit record, and what is in it against what a trace must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError, StoreError
from moetrace.store.format import layout
from moetrace.store.format.records import RunRecord
from moetrace.store.format.schema import tables
from moetrace.store.read.catalog import Catalog
from moetrace.store.read.compact_index import read_index
from moetrace.store.read.verified import read_verified
from moetrace.store.storage.claims import living_claims
from moetrace.store.verify.shard import ShardChecker
from moetrace.store.verify.verdict import Problem, Verdict, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from moetrace.store.format.records import FileRecord
    from moetrace.store.storage.base import Entry


def verify(
    place: str | Path,
    *,
    quick: bool = False,
    repair: bool = False,
    on_shard: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Check every shard of a store; one that is bad does not keep the others from being checked.

    `quick` looks at sizes, footers and schemas only. `repair` removes the commit records of bad shards: their data
    stay as orphans until the next trace has done the shards again. `on_shard` is told how many of how many are done.

    Raises StoreError where there is no store at `place`.
    """
    catalog = Catalog(place)
    verdict = Verdict()
    listed = {entry.path: entry for entry in catalog.storage.listing()}
    runs = _run_records(catalog, listed, verdict)
    commits = [path for path in listed if path.startswith(f"{layout.COMMITS}/") and layout.SHARD_FILE.search(path)]
    named: set[str] = set()
    for number, path in enumerate(sorted(commits)):
        checker = ShardChecker(catalog, runs, path, listed, verdict)
        found = [Problem(where, what, path) for where, what in checker.problems(quick=quick)]
        named |= checker.named
        verdict.problems += found
        verdict.shards += 1
        if found and repair:
            catalog.storage.delete(path)
            verdict.dropped.append(path)
        if on_shard:
            on_shard(number + 1, len(commits))
    for run in runs:
        index = read_index(catalog.storage, run)
        if index is not None:
            named.add(index.data.path)
            verdict.problems += [Problem(where, what) for where, what in _check_compact(catalog, index.data)]
    data = [*tables(1), layout.COMPACT]
    verdict.orphans = [
        path for path in listed if path.split("/")[0] in data and path.endswith(".parquet") and path not in named
    ]
    verdict.unfinished = catalog.storage.unfinished()
    verdict.claims = living_claims(catalog.storage)
    return verdict


def _run_records(catalog: Catalog, listed: dict[str, Entry], verdict: Verdict) -> dict[str, RunRecord]:
    found = {}
    for path in listed:
        if path.startswith(f"{layout.RUNS}/") and path.endswith(".json"):
            try:
                record = RunRecord.from_json(catalog.storage.read(path), path)
                tables(record.num_experts)
                found[record.run] = record
            except (MoetraceError, KeyError, TypeError, ValueError) as error:
                verdict.problems.append(Problem(path, f"the run record is damaged ({error})"))
    return found


def _check_compact(catalog: Catalog, file: FileRecord) -> Iterator[tuple[str, str]]:
    try:
        read_verified(catalog, file, 0, file.bytes)
    except StoreError as error:
        yield file.path, f"{first_line(error)}; make it again with `moetrace compact`"
