"""What a store has, by its records: what its commit records name, never what a search for data files finds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError, UnknownNameError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
from moetrace.store.format.schema import FORMAT_VERSION
from moetrace.store.read.compact_index import CompactIndex, read_index
from moetrace.store.storage.base import Storage
from moetrace.store.storage.open import open_storage

if TYPE_CHECKING:
    from pathlib import Path

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
    """The run records and commit records of a store, each listed and read once, when it is first asked for."""

    def __init__(self, place: str | Path | Storage) -> None:
        """Open a store; raise StoreError if there is none at `place` or its format is newer than this version reads.

        place: a folder, or a URL such as `s3://bucket/prefix`
        """
        self.storage = place if isinstance(place, Storage) else open_storage(place)
        self.url = self.storage.url
        # The format version of shards whose commit record names none.
        self.oldest_version = int(read_format(self.storage)["upgraded_from"])
        self._checksums: dict[str, str | None] = {}

    @cached_property
    def runs(self) -> dict[str, RunRecord]:
        """Return the run records by name, sorted."""
        with as_store_errors(self.url, "read"):
            paths = [entry.path for entry in self.storage.listing(layout.RUNS) if entry.path.endswith(".json")]
            found = self.storage.read_all(paths)
        records = [RunRecord.from_json(found[path], f"{self.url}: {path}") for path in paths]
        return {record.run: record for record in sorted(records, key=lambda record: record.run)}

    def run(self, name: str | None = None) -> RunRecord:
        """Return a run's record; without a name, the only run's. Raise UnknownNameError otherwise."""
        if name is None:
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
        listed = {path: entry for path, entry in self.commit_files.items() if layout.shard_of(path)[0] in self.runs}
        known = {path: record for index in self.indexes.values() for path, record in index.unchanged(listed).items()}
        with as_store_errors(self.url, "read"):
            read = self.storage.read_all(path for path in listed if path not in known)
        records = (
            CommitRecord.from_json(read[path], f"{self.url}: {path}") if path in read else known[path]
            for path in sorted(listed)
        )
        return {(record.run, record.lang, record.shard): record for record in records}

    @cached_property
    def commit_files(self) -> dict[str, Entry]:
        """Return what a listing shows of the commit records, by path."""
        with as_store_errors(self.url, "read"):
            listed = self.storage.listing(layout.COMMITS)
        return {entry.path: entry for entry in listed if layout.SHARD_FILE.search(entry.path)}

    @cached_property
    def indexes(self) -> dict[str, CompactIndex]:
        """Return the compact indexes, by run, of the runs that have one."""
        found = {run: read_index(self.storage, run) for run in self.runs}
        return {run: index for run, index in found.items() if index is not None}

    def files(self, table: str) -> list[ShardFile]:
        """Return the committed files of a table over all runs."""
        return [
            ShardFile(
                commit.run,
                commit.lang,
                commit.shard,
                table,
                file.path,
                file.rows,
                commit.version or self.oldest_version,
                self.storage.location,
            )
            for commit in self.commits
            for file in commit.files
            if file.table == table
        ]

    def file_record(self, path: str) -> FileRecord:
        """Return what is known of a committed file, path relative to the store; raise StoreError where it is none."""
        match = layout.SHARD_FILE.search(path)
        commit = self._commits.get((match[1], match[2], int(match[3]))) if match else None
        known = [index.data for index in self.indexes.values()] if commit is None else commit.files
        for file in known:
            if file.path == path:
                return file
        raise StoreError(f"{self.url}: {path} is not a file of a finished shard")

    def checksums(self, file: FileRecord) -> str | None:
        """Return the CRC-32 of every block of a file; None where it was written in a format version before 3."""
        if file.crc32 is None and file.path not in self._checksums:
            # A compact index leaves checksums out: they would make most of it, and few files are read.
            match = layout.SHARD_FILE.search(file.path)
            path = layout.commit_path(match[1], match[2], int(match[3])) if match else file.path
            with as_store_errors(self.url, "read"):
                commit = CommitRecord.from_json(self.storage.read(path), f"{self.url}: {path}")
            self._checksums.update({found.path: found.crc32 for found in commit.files})
        return file.crc32 or self._checksums[file.path]


def read_format(storage: Storage) -> dict[str, Any]:
    """Return what store.json says: `version`, and `upgraded_from` where that was another.

    Raises StoreError saying why the store cannot be read.
    """
    try:
        content = storage.read(layout.FORMAT)
    except (FileNotFoundError, NotADirectoryError) as error:
        if storage.exists():
            raise StoreError(f"{storage}: not a moetrace store (no store.json)") from error
        raise StoreError(f"{storage}: no such store; make one with `moetrace trace` or `moetrace demo`") from error
    except OSError as error:
        raise StoreError(f"{storage}: cannot be read ({error.strerror or error})") from error
    try:
        found = json.loads(content)
        version = found["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{storage}: store.json is damaged; it should hold the store's format version") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreError(
            f"{storage}: format version {version}, this moetrace reads up to {FORMAT_VERSION}; upgrade moetrace"
        )
    return {"version": version, "upgraded_from": found.get("upgraded_from", version)}
