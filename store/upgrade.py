"""Making a store of an older format one that this version writes: its data files stay as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.blocks import BlockChecksums
from moetrace.store.format.schema import FORMAT_VERSION
from moetrace.store.read.reader import Store
from moetrace.store.read.store_format import format_text
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.quarantine import move_to_quarantine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moetrace.store.format.records import FileRecord
    from moetrace.store.storage.base import Storage

PIECE = 1 << 22  # bytes read at a time


def upgrade(place: str | Path, *, on_shard: Callable[[int, int], None] | None = None) -> int:
    """Let new shards be written in the newest format beside those of an older one; return the version it had.

    Everything is verified first. Then each record is written again with what it lacks: a checksum, the format version
    of the shard, checksums of every block of its files, a copy of the run record. Roll-ups that are compacted are
    compacted again, and those of an older format taken out. store.json comes last: until then an older moetrace still
    reads the store, and the same call goes on. `on_shard` is told how many of how many shards are verified.

    Raises StoreError where there is no store, something in it is bad, somebody is writing, or it cannot be written.
    """
    store = Store(place)
    version, storage = store.format.version, store.storage
    if version == FORMAT_VERSION:
        return version
    verdict = verify(storage, on_shard=on_shard)
    if verdict.problems:
        first = verdict.problems[0]
        raise StoreError(
            f"{storage}: {first.path}: {first.what} (problems in all: {len(verdict.problems)}); nothing was changed, "
            "`moetrace verify --repair` first"
        )
    if verdict.claims:
        raise StoreError(f"{storage}: {verdict.claims[0]}: is being traced; wait for it; nothing was changed")
    store = Store(storage)  # as it was verified
    with as_store_errors(storage, "written", "; run `moetrace upgrade` again"):
        for record in store.runs.values():
            content = record.to_json().encode()
            _replace(storage, layout.run_path(record.run), content)
            _replace(storage, layout.run_copy_path(record.run), content)
        for commit in store.commits:
            files = tuple(_with_checksums(storage, file) for file in commit.files)
            known = replace(commit, version=commit.version or store.format.oldest, files=files)
            _replace(storage, layout.commit_path(commit.run, commit.lang, commit.shard), known.to_json().encode())
        kept = _compacted_again(storage)
        listed = [entry.path for entry in storage.listing(layout.COMPACT) if layout.place_of(entry.path)]
        if old := [path for path in listed if path not in kept]:
            move_to_quarantine(storage, dict.fromkeys(old, "is of an older format; `moetrace compact` makes it again"))
        storage.replace(layout.FORMAT, format_text().encode())
    return version


def _replace(storage: Storage, path: str, content: bytes) -> None:
    """Write a record, unless it is there as it is: what was compacted is of commit records that nobody wrote since."""
    if not storage.has(path) or storage.read(path) != content:
        storage.replace(path, content)


def _compacted_again(storage: Storage) -> set[str]:
    """Compact what was compacted of commit records that have changed; return the paths of all that is now in use."""
    kept, store = set[str](), Store(storage)
    for run, index in store.indexes.items():
        unchanged = index.unchanged(store.commit_files).keys() == index.entries.keys()
        data = index.data if unchanged else compact(store, run).index.data
        kept |= {layout.compact_index_path(run), data.path}
    return kept


def _with_checksums(storage: Storage, file: FileRecord) -> FileRecord:
    """Return the record of a file, which is as it was written, with the checksums of its blocks."""
    if file.crc32 is not None:
        return file
    blocks = BlockChecksums()
    for start in range(0, file.bytes, PIECE):
        blocks.update(storage.read_range(file.path, start, min(start + PIECE, file.bytes)))
    return replace(file, crc32=blocks.hex())
