"""Adding roll-ups up into one file a run, so that a store of 2,000 shards opens as fast as one of few.

What is compacted can always be made again; `store.read.compact_index` says when it may be used.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.schema import rollups
from moetrace.store.read.compact_index import CompactIndex, IndexEntry
from moetrace.store.read.rollups import added_up
from moetrace.store.write.files import HashedFile, write_parquet

if TYPE_CHECKING:
    from moetrace.store.format.records import FileRecord
    from moetrace.store.read.catalog import Catalog

KEPT = 3600.0  # seconds that replaced roll-ups stay


def compact(catalog: Catalog, run: str) -> CompactIndex:
    """Add up the roll-ups of a run, shard after shard, and put them beside the commit records.

    Raises StoreError where a file of a shard is damaged, or the store cannot be written. What was compacted before
    stays for an hour: readers, and another `compact` at the same time, may be about to use it. A run that grows later
    needs another `compact` only to be as fast again.
    """
    record = catalog.run(run)
    commits = [commit for commit in catalog.commits if commit.run == run]
    if "usage" not in record.tables:
        raise StoreError(f"{catalog.url}: run '{run}' has no roll-ups that could be added up")
    by_language: dict[str, list[tuple[FileRecord, int]]] = {}
    for commit in commits:
        version = commit.version or catalog.format.oldest
        by_language.setdefault(commit.lang, []).extend(
            (file, version) for file in commit.files if file.table == "usage"
        )
    table = rollups(record.num_experts)
    storage = catalog.storage
    with as_store_errors(catalog.url, "written", "; nothing was lost"):
        path = layout.compact_data_path(run, uuid.uuid4().hex)
        with storage.staging() as staging, HashedFile(staging / table.name) as written:
            groups = (added_up(catalog, record, lang, found) for lang, found in by_language.items())
            rows = write_parquet(written, table, groups)
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
    return index
