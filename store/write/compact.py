"""Adding roll-ups up into one file a run, so that a store of 2,000 shards opens as fast as one of few.

What is compacted can always be made again; `store.read.compact_index` says when it may be used.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.schema import MOMENTS_SINCE, rollups
from moetrace.store.read.compact_index import CompactIndex, IndexEntry, without_checksums
from moetrace.store.read.moments import SOURCES, added_moments, moments_in, shard_moments, with_moments
from moetrace.store.read.usage_files import added_up, compacted_rows, languages_added_up
from moetrace.store.write.files import HashedFile, write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
    from moetrace.store.read.catalog import Catalog
    from moetrace.store.read.moments import Moments

KEPT = 3600.0  # seconds that replaced roll-ups stay


@dataclass(frozen=True)
class Compacted:
    """The index that was written, and what became of shards whose roll-ups have no second moments over texts.

    - computed: shards of which they were computed from routes, now or by an earlier `compact`
    - lacking: by language that has none for that, how many of its shards lack them
    - computable: whether the run has the tables that they are computed from
    """

    index: CompactIndex
    computed: int
    lacking: Mapping[str, int]
    computable: bool


def compact(
    catalog: Catalog,
    run: str,
    *,
    moments: bool = False,
    anew: bool = False,
    on_shard: Callable[[int, int], None] | None = None,
) -> Compacted:
    """Add up the roll-ups of a run, shard after shard, and put them beside the commit records.

    Only new shards are read: they are added to what was compacted of their language, while its commit records are as
    they were. That is what adding all of them up would give, bit for bit, because new shards have higher numbers; where
    one has a lower one, and with `anew`, every shard of the language is read. As many threads as there are cores read.

    `moments`: second moments over texts are computed from routes where shards of a format before 5 lack them; without
    it, those that an earlier `compact` computed are kept while its shards have the same files. `on_shard` is told how
    many of how many such shards are done.

    Raises StoreError where a file of a shard is damaged, or the store cannot be written. What was compacted before
    stays for an hour: readers, and another `compact` at the same time, may be about to use it. A run that grows later
    needs another `compact` only to be as fast again.
    """
    record = catalog.run(run)
    commits = [commit for commit in catalog.commits if commit.run == run]
    if "usage" not in record.tables:
        raise StoreError(f"{catalog.url}: run '{run}' has no table usage, which is what compact adds up")
    languages = _Languages(catalog, record, commits, on_shard if moments else None, compute=moments, anew=anew)
    table = rollups(record.num_experts)
    storage = catalog.storage
    with as_store_errors(catalog.url, "written", "; nothing was lost"):
        path = layout.compact_data_path(run, uuid.uuid4().hex)
        with storage.staging() as staging, HashedFile(staging / table.name) as written:
            rows = write_parquet(written, table, languages.rows())
            data = written.finish(path, table.name, rows)
            written.sync()
            storage.publish(staging / table.name, path)
        listed = catalog.commit_files
        paths = {layout.commit_path(commit.run, commit.lang, commit.shard): commit for commit in commits}
        entries = {path: IndexEntry(listed[path].bytes, listed[path].stamp, commit) for path, commit in paths.items()}
        index = CompactIndex(run, record.sha256(), data, entries)
        storage.replace(layout.compact_index_path(run), index.to_json().encode())
        others = [entry for entry in storage.listing(data.path.rpartition("/")[0]) if entry.path != data.path]
        now = storage.now() if others else 0.0
        for entry in others:
            if layout.place_of(entry.path) and now - entry.modified > KEPT:
                storage.delete(entry.path)
    return Compacted(index, languages.computed, languages.lacking, languages.computable)


@dataclass(frozen=True)
class _Before:
    """What was compacted of a language: its rows, the keys of its shards, whether their records are as they were."""

    rows: pa.Table
    known: frozenset[str]
    current: bool


class _Languages:
    """The roll-ups of a run, language after language."""

    def __init__(
        self,
        catalog: Catalog,
        record: RunRecord,
        commits: Sequence[CommitRecord],
        on_shard: Callable[[int, int], None] | None,
        *,
        compute: bool,
        anew: bool,
    ) -> None:
        self.computed, self.lacking = 0, dict[str, int]()
        self.computable = set(SOURCES) <= set(record.tables)
        self._catalog, self._record, self._compute, self._on_shard = catalog, record, compute, on_shard
        self._commits: dict[str, list[CommitRecord]] = {}
        for commit in commits:
            self._commits.setdefault(commit.lang, []).append(commit)
        self._done, self._total = 0, sum(map(self._lacks, commits))
        self._before = {} if anew else self._compacted_before()

    def rows(self) -> Iterator[pa.Table]:
        """Yield the rows of each language, in order."""
        going_on = {lang: found for lang, found in self._before.items() if self._goes_on(lang, found)}
        files = {
            lang: self._usage_files(lang, going_on[lang].known if lang in going_on else frozenset())
            for lang in self._commits
        }
        before = {lang: found.rows for lang, found in going_on.items()}
        for lang, found in languages_added_up(self._catalog, self._record, files, before):
            rows = found
            if isinstance(rows, StoreError):
                if lang not in going_on:
                    raise rows
                rows = added_up(self._catalog, self._record, lang, self._usage_files(lang))
            moments = moments_in(rows)
            if moments is None:
                moments = self._moments(lang)
            else:  # of older shards, an earlier `compact` computed them
                self.computed += sum(map(self._lacks, self._commits[lang]))
            yield with_moments(rows, moments) if moments else rows

    def _goes_on(self, lang: str, found: _Before) -> bool:
        """Tell whether new shards can be added to what was compacted of a language, or all have to be read."""
        new = [commit.shard for commit in self._commits[lang] if commit.key not in found.known]
        old = [commit.shard for commit in self._commits[lang] if commit.key in found.known]
        return found.current and (not new or min(new) > max(old))

    def _usage_files(self, lang: str, known: frozenset[str] = frozenset()) -> list[tuple[FileRecord, int]]:
        return [
            (file, self._version(commit))
            for commit in self._commits[lang]
            if commit.key not in known
            for file in commit.files
            if file.table == "usage"
        ]

    def _moments(self, lang: str) -> Moments | None:
        """Return the moments of a language with shards that lack them; None where one is left without."""
        before = self._before.get(lang)
        said = moments_in(before.rows) if before else None
        parts, known = ([said], before.known) if before and said else ([], frozenset[str]())
        older = [commit for commit in self._commits[lang] if self._lacks(commit)]
        if not self.computable or not (self._compute or all(commit.key in known for commit in older)):
            self.lacking[lang] = len(older)
            return None
        for commit in self._commits[lang]:
            if commit.key not in known:
                parts.append(shard_moments(self._catalog, self._record, commit))
                self._report(commit)
        self.computed += len(older)
        return added_moments(parts)

    def _compacted_before(self) -> dict[str, _Before]:
        """Return what was compacted of each language whose shards have the files that they had.

        Files are compared by digest, not by the times of commit records: of a store that was copied or upgraded, too,
        no moments are computed twice.
        """
        index = self._catalog.indexes.get(self._record.run)
        if index is None:
            return {}
        try:
            rows = compacted_rows(self._catalog, self._record, index.data)
        except StoreError:
            return {}  # whatever it said is made again
        now = {commit.key: without_checksums(commit).files for each in self._commits.values() for commit in each}
        then = {entry.commit.key: without_checksums(entry.commit) for entry in index.entries.values()}
        changed = {commit.lang for key, commit in then.items() if now.get(key) != commit.files}
        current = index.current(self._catalog.commit_files)
        known: dict[str, set[str]] = {}
        for key, commit in then.items():
            known.setdefault(commit.lang, set()).add(key)
        return {
            lang: _Before(rows[lang], frozenset(known[lang]), lang in current)
            for lang in rows.keys() & known.keys() - changed
        }

    def _report(self, commit: CommitRecord) -> None:
        self._done += self._lacks(commit)
        if self._on_shard:
            self._on_shard(self._done, self._total)

    def _lacks(self, commit: CommitRecord) -> bool:
        return self._version(commit) < MOMENTS_SINCE or "sequences" not in self._record.tables

    def _version(self, commit: CommitRecord) -> int:
        return commit.version or self._catalog.format.oldest
