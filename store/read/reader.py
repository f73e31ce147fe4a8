"""Reading a store: what is in it is what its commit records name, never a glob of data files."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError, UnknownNameError
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
from moetrace.store.format.schema import FORMAT_VERSION, TABLE_NAMES, tables
from moetrace.store.storage.storage import LocalStorage, Storage, open_storage
from moetrace.store.write.compact import CompactIndex, read_index, rollup_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    import polars as pl
    import pyarrow as pa
    import pyarrow.dataset as ds

    from moetrace.store.storage.storage import Entry


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


class Store:
    """A store, read-only; the view is of the moment it is first looked at."""

    def __init__(self, place: str | Path | Storage) -> None:
        """Open a store; raise StoreError if there is none at `place` or its format is newer than this version reads.

        place: a folder, or a URL such as `s3://bucket/prefix`
        """
        self.storage = place if isinstance(place, Storage) else open_storage(place)
        self.url = self.storage.url
        self._format = read_format(self.storage)
        self._checksums: dict[str, str | None] = {}

    @property
    def version(self) -> int:
        """Return the format version of the store."""
        return int(self._format["version"])

    @property
    def oldest_version(self) -> int:
        """Return the format version of shards whose commit record names none."""
        return int(self._format["upgraded_from"])

    @cached_property
    def runs(self) -> dict[str, RunRecord]:
        """Return the run records by name, sorted."""
        with self._reading():
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
        listed = {path: entry for path, entry in self.commit_files.items() if path.split("/")[1][4:] in self.runs}
        known = {path: record for index in self._indexes.values() for path, record in index.unchanged(listed).items()}
        with self._reading():
            read = self.storage.read_all(path for path in listed if path not in known)
        records = (
            CommitRecord.from_json(read[path], f"{self.url}: {path}") if path in read else known[path]
            for path in sorted(listed)
        )
        return {(record.run, record.lang, record.shard): record for record in records}

    @cached_property
    def commit_files(self) -> dict[str, Entry]:
        """Return what a listing shows of the commit records, by path."""
        with self._reading():
            listed = self.storage.listing(layout.COMMITS)
        return {entry.path: entry for entry in listed if layout.SHARD_FILE.search(entry.path)}

    @cached_property
    def _indexes(self) -> dict[str, CompactIndex]:
        """The compact indexes of the runs that have one."""
        found = {run: read_index(self.storage, run) for run in self.runs}
        return {run: index for run, index in found.items() if index is not None}

    def traced_at(self, run: str) -> str:
        """Return the time of the run's newest commit, ISO 8601; raise StoreError where it has none."""
        times = [commit.created for commit in self.commits if commit.run == run]
        if not times:
            raise StoreError(f"{self.url}: run '{run}' has no finished shard yet; trace it first")
        return max(times)

    def languages(self, run: str) -> list[str]:
        """Return the languages of which at least one shard is committed."""
        return sorted({commit.lang for commit in self.commits if commit.run == run})

    def files(self, table: str) -> list[ShardFile]:
        """Return the committed files of a table over all runs."""
        root = str(self.storage.root.absolute()) if isinstance(self.storage, LocalStorage) else self.url
        return [
            ShardFile(
                commit.run,
                commit.lang,
                commit.shard,
                table,
                file.path,
                file.rows,
                commit.version or self.oldest_version,
                root,
            )
            for commit in self.commits
            for file in commit.files
            if file.table == table
        ]

    def rollups(self) -> tuple[list[CompactedRollups], list[ShardFile]]:
        """Return what the roll-ups of all runs are added up from: compacted files, and the shards they do not cover.

        A compacted file counts for a language only if every shard it has of that language is committed unchanged.
        """
        compacted, covered = [], set[tuple[str, str]]()
        shards: set[str] = set()
        for run, index in self._indexes.items():
            languages = index.current(self.commit_files)
            if languages:
                compacted.append(CompactedRollups(run, index.data.path, languages))
                covered |= {(run, lang) for lang in languages}
                shards |= index.entries.keys()
        rest = [
            file
            for file in self.files("usage")
            if (file.run, file.lang) not in covered or layout.commit_path(file.run, file.lang, file.shard) not in shards
        ]
        return compacted, rest

    def rollup_table(self, run: str | None = None) -> pa.Table:
        """Return the roll-ups of a run, added up over shards: a row for each language, layer and expert.

        Columns: lang and those of `usage`. Raises UnknownNameError for a run that is not there, StoreError where a
        file is damaged.
        """
        return rollup_table(self, self.run(run).run)

    def file_record(self, path: str) -> FileRecord:
        """Return what is known of a committed file, path relative to the store; raise StoreError where it is none."""
        match = layout.SHARD_FILE.search(path)
        commit = self._commits.get((match[1], match[2], int(match[3]))) if match else None
        known = [index.data for index in self._indexes.values()] if commit is None else commit.files
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
            with self._reading():
                commit = CommitRecord.from_json(self.storage.read(path), f"{self.url}: {path}")
            self._checksums.update({found.path: found.crc32 for found in commit.files})
        return file.crc32 or self._checksums[file.path]

    def dataset(self, table: str, run: str | None = None, languages: Collection[str] = ()) -> ds.Dataset:
        """Return a table of one run as an Arrow dataset, with columns run, lang and shard; nothing is read yet.

        Without a name, the only run; without languages, all of them. Every byte that is read is checked. Raises
        UnknownNameError for a run, a table or a language that is not there.
        """
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.dataset as ds  # noqa: PLC0415  takes a while to import, and few need it
        from pyarrow.fs import FSSpecHandler, PyFileSystem  # noqa: PLC0415

        from moetrace.store.read.verified import VerifiedFiles  # noqa: PLC0415

        record = self.run(run)
        if table not in TABLE_NAMES:
            raise UnknownNameError.among("table", table, TABLE_NAMES, self.url)
        for lang in languages:
            if lang not in self.languages(record.run):
                raise UnknownNameError.among("language", lang, self.languages(record.run), f"run '{record.run}'")
        files = [
            file for file in self.files(table) if file.run == record.run and (not languages or file.lang in languages)
        ]
        keys = pa.schema([("run", pa.string()), ("lang", pa.string()), ("shard", pa.int32())])
        run_is, lang_is, shard_is = (ds.field(name) for name in keys.names)
        return ds.FileSystemDataset.from_paths(
            [file.path for file in files],
            schema=pa.schema([*keys, *tables(record.num_experts)[table].schema]),
            format=ds.ParquetFileFormat(),
            filesystem=PyFileSystem(FSSpecHandler(VerifiedFiles(self))),
            partitions=[
                (run_is == file.run) & (lang_is == file.lang) & (shard_is == pa.scalar(file.shard, pa.int32()))
                for file in files
            ],
        )

    def scan(self, table: str, run: str | None = None, languages: Collection[str] = ()) -> pl.LazyFrame:
        """Return a table of one run as a lazy polars frame: `dataset` under another hood."""
        import polars as pl  # noqa: PLC0415

        return pl.scan_pyarrow_dataset(self.dataset(table, run, languages))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what the operating system refuses into one line."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.url}: cannot be read ({error.filename or ''}: {error.strerror or error})"
            ) from error


@dataclass(frozen=True)
class CompactedRollups:
    """The roll-ups of a run added up over shards; only those of `languages` may be used."""

    run: str
    path: str
    languages: tuple[str, ...]


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
