"""Roll-ups of many shards added up into one file a run, so that a store of 2,000 shards opens as fast as one of few.

What is compacted can always be made again and is never trusted over the commit records: it counts for a language only
while the commit records it was made from are listed with the same size and stamp.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord, FileRecord
from moetrace.store.format.schema import rollups
from moetrace.store.read.verified import read_verified
from moetrace.store.write.files import HashedFile, write_parquet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from moetrace.store.format.records import RunRecord
    from moetrace.store.read.reader import Store
    from moetrace.store.storage.storage import Entry, Storage

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


def compact(store: Store, run: str) -> CompactIndex:
    """Add up the roll-ups of a run, shard after shard, and put them beside the commit records.

    Raises StoreError where a file of a shard is damaged, or the store cannot be written. Readers that are at work keep
    what they have opened; a run that grows later needs another `compact` only to be as fast again.
    """
    record = store.run(run)
    commits = [commit for commit in store.commits if commit.run == run]
    by_language: dict[str, list[FileRecord]] = {}
    for commit in commits:
        file = commit.file("usage")
        if file is None:
            raise StoreError(f"{store.url}: {commit.key} has no roll-ups")
        by_language.setdefault(commit.lang, []).append(file)
    table = rollups(record.num_experts)
    storage = store.storage
    try:
        path = layout.compact_data_path(run, uuid.uuid4().hex)
        with storage.staging() as staging, HashedFile(staging / table.name) as written:
            groups = (_added_up(store, record, lang, table.schema, found) for lang, found in by_language.items())
            rows = write_parquet(written, table, groups)
            data = written.finish(path, table.name, rows)
            written.sync()
            storage.publish(staging / table.name, path)
        listed = store.commit_files
        paths = {layout.commit_path(commit.run, commit.lang, commit.shard): commit for commit in commits}
        index = CompactIndex(run, data, {path: index_entry(listed[path], commit) for path, commit in paths.items()})
        storage.replace(layout.compact_index_path(run), index.to_json().encode())
        for entry in storage.listing(data.path.rpartition("/")[0]):
            if entry.path != data.path:
                storage.delete(entry.path)
    except OSError as error:
        raise StoreError(f"{store.url}: cannot be written ({error.strerror or error}); nothing was lost") from error
    return index


def rollup_table(store: Store, run: str) -> pa.Table:
    """Return the roll-ups of a run added up over shards: lang and the columns of `usage`, a row for each expert.

    Compacted ones are read where they are current, the others shard by shard. Raises StoreError where one is damaged.
    """
    record = store.run(run)
    schema = rollups(record.num_experts).schema
    compacted, rest = store.rollups()
    parts: dict[str, pa.Table] = {}
    for found in (found for found in compacted if found.run == run):
        rows = _read(store, store.file_record(found.path))
        size = len(record.moe_layers) * record.num_experts
        for start in range(0, len(rows), size):
            part = rows.slice(start, size)
            if (lang := part.column("lang")[0].as_py()) in found.languages:
                parts[lang] = part
    shards: dict[str, list[FileRecord]] = {}
    for file in rest:
        if file.run == run:
            shards.setdefault(file.lang, []).append(store.file_record(file.path))
    for lang, files in shards.items():
        parts[lang] = _added_up(store, record, lang, schema, files, parts.get(lang))
    return pa.concat_tables([schema.empty_table(), *(parts[lang].cast(schema) for lang in sorted(parts))])


def _read(store: Store, file: FileRecord) -> pa.Table:
    return pq.read_table(io.BytesIO(read_verified(store, file, 0, file.bytes)))


def _added_up(
    store: Store,
    record: RunRecord,
    lang: str,
    schema: pa.Schema,
    files: Sequence[FileRecord],
    before: pa.Table | None = None,
) -> pa.Table:
    """Return the roll-ups of one language, added up in the order of the shards, to what was added up `before`."""
    size = len(record.moe_layers) * record.num_experts
    sums: dict[str, npt.NDArray[np.generic]] = {}
    for rows in (*((before,) if before else ()), *(_read(store, file) for file in files)):
        for name in schema.names[3:]:
            column = rows.column(name)
            if column.null_count == 0:
                sums[name] = sums[name] + column.to_numpy() if name in sums else column.to_numpy()
    columns = [
        pa.array([lang] * size, schema.field("lang").type),
        pa.array(np.repeat(np.asarray(record.moe_layers), record.num_experts), schema.field("layer").type),
        pa.array(np.tile(np.arange(record.num_experts), len(record.moe_layers)), schema.field("expert").type),
        *(
            pa.array(sums[name], schema.field(name).type) if name in sums else pa.nulls(size, schema.field(name).type)
            for name in schema.names[3:]
        ),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
