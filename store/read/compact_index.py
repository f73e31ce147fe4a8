"""The index of a run's compacted roll-ups: which commit records they were made from.

What is compacted is never trusted over the commit records: it counts for a language only while the commit records it
was made from are listed with the same size and stamp.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord, FileRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.store.storage.base import Entry, Storage

INDEX_VERSION = 1


@dataclass(frozen=True)
class CompactIndex:
    """What a run's compacted roll-ups were made from: the file, and each commit record as it was listed and read."""

    run: str
    data: FileRecord
    entries: dict[str, dict[str, Any]]

    def unchanged(self, listed: Mapping[str, Entry]) -> dict[str, CommitRecord]:
        """Return the records, by path, of the commits that are listed as they were; without block checksums."""
        return {
            path: CommitRecord.from_fields(entry["record"], path)
            for path, entry in self.entries.items()
            if _same(entry, listed.get(path))
        }

    def current(self, listed: Mapping[str, Entry]) -> tuple[str, ...]:
        """Return the languages of which every shard that was added up is still listed as it was."""
        languages = dict.fromkeys(str(entry["record"]["lang"]) for entry in self.entries.values())
        for path, entry in self.entries.items():
            if not _same(entry, listed.get(path)):
                languages.pop(str(entry["record"]["lang"]), None)
        return tuple(languages)

    def to_json(self) -> str:
        """Return the index as a line of JSON, after one that says how it can be known to be whole."""
        content = json.dumps(asdict(self)) + "\n"
        head = {"version": INDEX_VERSION, "sha256": hashlib.sha256(content.encode()).hexdigest()}
        return json.dumps(head) + "\n" + content


def index_entry(listed: Entry, commit: CommitRecord) -> dict[str, Any]:
    """Return what an index keeps of a commit."""
    record = asdict(commit)
    for file in record["files"]:
        del file["crc32"]
    return {"bytes": listed.bytes, "stamp": listed.stamp, "record": record}


def read_index(storage: Storage, run: str) -> CompactIndex | None:
    """Return a run's index; None where it has none, or one that cannot be used: it is only there to save time."""
    try:
        head, _, content = storage.read(layout.compact_index_path(run)).partition(b"\n")
        if json.loads(head) != {"version": INDEX_VERSION, "sha256": hashlib.sha256(content).hexdigest()}:
            return None
        read = json.loads(content)
        return CompactIndex(run, FileRecord(**read["data"]), read["entries"])
    except (OSError, StoreError, ValueError, KeyError, TypeError):
        return None


def _same(entry: Mapping[str, Any], listed: Entry | None) -> bool:
    return listed is not None and (entry["bytes"], entry["stamp"]) == (listed.bytes, listed.stamp)
