"""What a store has, by its records: what its commit records name, never what a search for data files finds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, UnknownNameError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
from moetrace.store.read.compact_index import CompactIndex, usable_index
from moetrace.store.read.store_format import read_format
from moetrace.store.storage.base import MOST_OF_A_RECORD, Storage
from moetrace.store.storage.open import open_storage

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.read.store_format import StoreFormat
    from moetrace.store.storage.base import Entry


@dataclass(frozen=True)
class ShardFile:
    """One committed data file, its path in the store, and where its rows belong."""

    run: str
    lang: str
    shard: int
    table: str
    path: str
    rows: int
    version: int
    root: str

    @property
    def location(self) -> str:
        """Return the absolute path or the URL, which any program that reads Parquet can open."""
        return f"{self.root}/{self.path}"


class Catalog:
    """The run records and commit records of a store, each listed and read once, when it is first asked for.

    Every record is checked before anything of it is used: as written, of its place, and of the run it names. One that
    is not makes a StoreError that names it and its field, whatever is asked of the store.
    """

    def __init__(self, place: str | Path | Storage, known: StoreFormat | None = None) -> None:
        """Open a store; raise StoreError if there is none at `place` or its format is newer than this version reads.

        - place: a folder, or a URL such as `s3://bucket/prefix`
        - known: its format, where store.json is not to be asked
        """
        self.storage = place if isinstance(place, Storage) else open_storage(place)
        self.url = self.storage.url
        self.format = known or read_format(self.storage)
        self._checksums: dict[str, str | None] = {}

    @cached_property
    def runs(self) -> dict[str, RunRecord]:
        """Return the run records by name, sorted."""
        with as_store_errors(self.url, "read"):
            listed = self._records(layout.RUNS)
            found = self.storage.read_all(listed)
        records = [self.run_record(path, found[path]) for path in sorted(found)]
        return {record.run: record for record in sorted(records, key=lambda record: record.run)}

    def run_record(self, path: str, content: bytes) -> RunRecord:
        """Return the run record that a file holds; raise StoreError where it is damaged, or of another run."""
        where = f"{self.url}: {path}"
        record = RunRecord.from_json(content, where, sealed=self.format.sealed)
        if path != layout.run_path(record.run):
            raise StoreError(f"{where}: run: is the record of '{record.run}'")
        return record

    def commit_record(self, path: str, content: bytes) -> CommitRecord:
        """Return the commit record that a file holds; raise StoreError where it is damaged, or of another shard.

        Whether its run has the record that it was made under is `CommitRecord.check_under`.
        """
        where = f"{self.url}: {path}"
        commit = CommitRecord.from_json(content, where, sealed=self.format.sealed)
        if path != layout.commit_path(commit.run, commit.lang, commit.shard):
            raise StoreError(f"{where}: shard: is the record of {commit.key} of run '{commit.run}'")
        if self.format.sealed and any(file.crc32 is None for file in commit.files):
            raise StoreError(f"{where}: files: one has no crc32, without which what is read of it cannot be checked")
        return commit

    def run(self, name: str | None = None) -> RunRecord:
        """Return a run's record; without a name, the only run's. Raise UnknownNameError otherwise."""
        if name is None:
            if not self.runs:
                raise StoreError(f"{self.url}: has no finished shard of any run yet; trace or import one first")
            if len(self.runs) != 1:
                raise UnknownNameError(
                    f"{self.url} has {len(self.runs)} runs ({', '.join(self.runs)}); say which with --run"
                )
            return next(iter(self.runs.values()))
        if name not in self.runs:
            raise UnknownNameError.among("run", name, self.runs, self.url)
        return self.runs[name]

    @cached_property
    def commits(self) -> list[CommitRecord]:
        """Return the commit record of every shard that is in the store, by run, language and shard."""
        return list(self._commits.values())

    @cached_property
    def _commits(self) -> dict[tuple[str, str, int], CommitRecord]:
        """Commit records by run, language and shard; those that a compact index has unchanged are not read again."""
        listed = self.commit_files  # before the runs: a run is recorded before its first shard is committed
        listed = {path: entry for path, entry in listed.items() if self._is_of_known_run(path)}
        known = {path: record for index in self.indexes.values() for path, record in index.unchanged(listed).items()}
        with as_store_errors(self.url, "read"):
            read = self.storage.read_all(path for path in listed if path not in known)
        found = {}
        for path in sorted(listed):
            if path in read:
                commit = self.commit_record(path, read[path])
                commit.check_under(self.runs[commit.run], f"{self.url}: {path}")
            else:
                commit = known[path]
            if (commit.version or 0) > self.format.version:
                raise StoreError(
                    f"{self.url}: {layout.FORMAT}: version: is {self.format.version}, {path} is of version "
                    f"{commit.version}; see `moetrace verify`"
                )
            found[commit.run, commit.lang, commit.shard] = commit
        return found

    def _is_of_known_run(self, path: str) -> bool:
        """Tell whether the run of a commit was there when the run records were read; raise where it has none."""
        place = layout.place_of(path)
        if place is None or place.run is None or place.run in self.runs:
            return place is not None
        if self.storage.has(layout.run_path(place.run)):
            return False  # a run that began since
        raise StoreError(
            f"{self.url}: {layout.run_path(place.run)}: is missing, and there are shards of the run; "
            "`moetrace verify` says what can be done"
        )

    @cached_property
    def commit_files(self) -> dict[str, Entry]:
        """Return what a listing shows of the commit records, by path."""
        with as_store_errors(self.url, "read"):
            return self._records(layout.COMMITS)

    @cached_property
    def indexes(self) -> dict[str, CompactIndex]:
        """Return the compact indexes, by run, of the runs that have one that can be used."""
        listed = len(self.commit_files)
        found = {run: usable_index(self.storage, record, listed) for run, record in self.runs.items()}
        return {run: index for run, index in found.items() if index is not None}

    def files(self, table: str) -> list[ShardFile]:
        """Return the committed files of a table over all runs."""
        return self._files.get(table, [])[:]

    @cached_property
    def _files(self) -> dict[str, list[ShardFile]]:
        """Return the committed files by table."""
        root, found = self.storage.location, dict[str, list[ShardFile]]()
        for commit in self.commits:
            version = commit.version or self.format.oldest
            for file in commit.files:
                found.setdefault(file.table, []).append(
                    ShardFile(commit.run, commit.lang, commit.shard, file.table, file.path, file.rows, version, root)
                )
        return found

    def file_record(self, path: str) -> FileRecord:
        """Return what is known of a committed file, path relative to the store; raise StoreError where it is none."""
        shard = layout.shard_of(path)
        commit = self._commits.get(shard) if shard else None
        for file in commit.files if commit else [index.data for index in self.indexes.values()]:
            if file.path == path:
                return file
        raise StoreError(f"{self.url}: {path} is not a file of a finished shard")

    def checksums(self, file: FileRecord) -> str | None:
        """Return the CRC-32 of every block of a file; None where it was written in a format version before 3."""
        if file.crc32 is None and file.path not in self._checksums:
            # A compact index leaves checksums out: they would make most of it, and few files are read.
            shard = layout.shard_of(file.path)
            if shard is None:
                raise StoreError(f"{self.url}: {file.path} is not a file of a finished shard")
            path = layout.commit_path(*shard)
            with as_store_errors(self.url, "read"):
                commit = self.commit_record(path, self.storage.read(path))
            commit.check_under(self.runs[commit.run], f"{self.url}: {path}")
            self._checksums.update({found.path: found.crc32 for found in commit.files})
        return self._checksums[file.path] if file.crc32 is None else file.crc32

    def _records(self, folder: str) -> dict[str, Entry]:
        """Return the records of a folder by path, copies left out; raise StoreError for what cannot be a record."""
        found = {}
        for entry in self.storage.listing(folder):
            place = layout.place_of(entry.path)
            if place is None and not layout.is_hidden(entry.path):
                raise StoreError(
                    f"{self.url}: {entry.path!r} has no name that a record has; move it out of the store, or give it "
                    "back the name it had"
                )
            if place is not None and entry.bytes > MOST_OF_A_RECORD:
                raise StoreError(
                    f"{self.url}: {entry.path}: has {entry.bytes:,} bytes, a record has at most {MOST_OF_A_RECORD:,}"
                )
            if place is not None and (place.shard is not None or folder == layout.RUNS):
                found[entry.path] = entry
        return found
