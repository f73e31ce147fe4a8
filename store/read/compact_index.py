"""The index of a run's compacted roll-ups: which commit records they were made from.

What is compacted is never trusted over the commit records: it counts for a language only while the commit records it
was made from are listed with the same size and time. An index that cannot be used only costs time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.format.record_schemas import IndexSchema, check_record
from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
from moetrace.store.format.sealed import read_sealed, sealed_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.store.storage.base import Entry, Storage

INDEX_VERSION = 3
MOST_OF_A_COMMIT = 1 << 13  # bytes of an index; 1 << 16 more for the rest of it


class OlderIndexError(StoreError):
    """An index is of an older format: it cannot be used, and nothing is wrong."""


@dataclass(frozen=True)
class IndexEntry:
    """A commit record as it was listed and read, without the checksums of blocks."""

    bytes: int
    stamp: str
    commit: CommitRecord

    def is_as_listed(self, listed: Entry | None) -> bool:
        """Tell whether a listing shows the commit record as it was."""
        return listed is not None and (self.bytes, self.stamp) == (listed.bytes, listed.stamp)


@dataclass(frozen=True)
class CompactIndex:
    """What a run's compacted roll-ups were made from: the file, and each commit record by its path."""

    run: str
    run_sha256: str
    data: FileRecord
    entries: dict[str, IndexEntry]

    def unchanged(self, listed: Mapping[str, Entry]) -> dict[str, CommitRecord]:
        """Return the records, by path, of the commits that are listed as they were; without block checksums."""
        return {path: entry.commit for path, entry in self.entries.items() if entry.is_as_listed(listed.get(path))}

    def current(self, listed: Mapping[str, Entry]) -> tuple[str, ...]:
        """Return the languages of which every shard that was added up is still listed as it was."""
        languages = dict.fromkeys(entry.commit.lang for entry in self.entries.values())
        for path, entry in self.entries.items():
            if not entry.is_as_listed(listed.get(path)):
                languages.pop(entry.commit.lang, None)
        return tuple(languages)

    def to_json(self) -> str:
        """Return the index, with its checksum, as a line of JSON."""
        return sealed_text(
            {
                "version": INDEX_VERSION,
                "run": self.run,
                "run_sha256": self.run_sha256,
                "data": asdict(self.data),
                "entries": {path: _fields(entry) for path, entry in self.entries.items()},
            },
            indent=None,
        )


def read_index(storage: Storage, record: RunRecord, commits: int) -> CompactIndex | None:
    """Return the index of a run that has so many commits; None where it has none.

    Raises StoreError, naming the field, for one that is damaged, of another format (OlderIndexError for an older one),
    or not of this run; OSError.
    """
    path = layout.compact_index_path(record.run)
    where = f"{storage}: {path}"
    most = (1 << 16) + MOST_OF_A_COMMIT * commits
    try:
        content = storage.read(path, most)
    except FileNotFoundError:
        return None
    found = read_sealed(content, where, required=True, most=most)
    version = found.get("version")
    if version != INDEX_VERSION:
        older = isinstance(version, int) and version < INDEX_VERSION
        raise (OlderIndexError if older else StoreError)(
            f"{where}: version: is {version!r}, this moetrace makes {INDEX_VERSION}"
        )
    check_record(IndexSchema, found, where)
    entries = {
        path: IndexEntry(entry["bytes"], entry["stamp"], CommitRecord.from_fields(entry["record"]))
        for path, entry in found["entries"].items()
    }
    index = CompactIndex(found["run"], found["run_sha256"], FileRecord(**found["data"]), entries)
    _check(index, record, where)
    return index


def usable_index(storage: Storage, record: RunRecord, commits: int) -> CompactIndex | None:
    """Return the index of a run that has so many commits; None where it has none that can be used."""
    try:
        return read_index(storage, record, commits)
    except (OSError, StoreError):
        return None


def _check(index: CompactIndex, record: RunRecord, where: str) -> None:
    if (index.run, index.run_sha256) != (record.run, record.sha256()):
        raise StoreError(f"{where}: run: was made of another record than that of run '{record.run}'")
    place = layout.place_of(index.data.path)
    if place != layout.Place(layout.COMPACT, record.run) or not index.data.path.endswith(".parquet"):
        raise StoreError(f"{where}: data.path: is {index.data.path!r}, no compacted roll-ups of the run")
    languages = {entry.commit.lang for entry in index.entries.values()}
    rows = len(languages) * len(record.moe_layers) * record.num_experts
    if index.data.rows != rows or index.data.crc32 is None:
        raise StoreError(f"{where}: data.rows: is {index.data.rows}, {len(languages)} languages have {rows}")
    for path, entry in index.entries.items():
        commit = entry.commit
        if path != layout.commit_path(commit.run, commit.lang, commit.shard) or commit.run != record.run:
            raise StoreError(f"{where}: entries: {path!r} is not where the commit record that it holds lies")
        commit.check_under(record, f"{where}: {path}")


def without_checksums(commit: CommitRecord) -> CommitRecord:
    """Return a commit record as an index keeps it."""
    return replace(commit, files=tuple(replace(file, crc32=None) for file in commit.files))


def _fields(entry: IndexEntry) -> dict[str, Any]:
    record = asdict(entry.commit)
    for file in record["files"]:
        del file["crc32"]  # they would make most of the index, and few files are read
    return {"bytes": entry.bytes, "stamp": entry.stamp, "record": record}
