"""Checking one shard: its commit record, then each file against it, then what the numbers say."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import MoetraceError, StoreError
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord
from moetrace.store.format.schema import ADDED_COLUMNS, tables
from moetrace.store.read.verified import VerifiedFile
from moetrace.store.verify.content import ShardContent
from moetrace.store.verify.verdict import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.store.format.records import FileRecord, RunRecord
    from moetrace.store.read.catalog import Catalog
    from moetrace.store.storage.base import Entry
    from moetrace.store.verify.verdict import Verdict

PIECE = 1 << 22  # bytes hashed at a time


class ShardChecker:
    """Checks one shard; `named` are the files that its commit record names."""

    def __init__(
        self, catalog: Catalog, runs: dict[str, RunRecord], path: str, listed: dict[str, Entry], verdict: Verdict
    ) -> None:
        self.named: set[str] = set()
        self._catalog, self._runs, self._path, self._listed, self._verdict = catalog, runs, path, listed, verdict

    def problems(self, *, quick: bool) -> Iterator[tuple[str, str]]:
        """Yield path and reason of everything that is wrong."""
        try:
            commit = CommitRecord.from_json(self._catalog.storage.read(self._path), self._path)
        except (StoreError, OSError) as error:
            yield self._path, f"the commit record is damaged ({first_line(error)})"
            return
        self.named = {file.path for file in commit.files}
        if (commit.run, commit.lang, commit.shard) != layout.shard_of(self._path):
            yield self._path, f"is the record of {commit.run}, {commit.key}"
            return
        record = self._runs.get(commit.run)
        if record is None:
            yield self._path, f"the record of run '{commit.run}' is missing or damaged"
            return
        if record.sha256() != commit.run_sha256:
            yield self._path, f"was traced under another record of run '{commit.run}'"
        if sorted(file.table for file in commit.files) != sorted(record.tables):
            yield self._path, "does not name the tables that the run record promises"
            return
        version = commit.version or self._catalog.oldest_version
        bad = False
        for file in commit.files:
            self._verdict.files += 1
            self._verdict.bytes += file.bytes
            for reason in self._file_problems(file, record, version, quick=quick):
                bad = True
                yield file.path, reason
        if not bad and not quick:
            yield from self._content_problems(commit, record, version)

    def _file_problems(self, file: FileRecord, record: RunRecord, version: int, *, quick: bool) -> Iterator[str]:
        found = self._listed.get(file.path)
        if found is None:
            yield "is missing"
            return
        if found.bytes != file.bytes:
            yield f"has {found.bytes} bytes, the commit record says {file.bytes}"
            return
        if not quick and (digest := self._sha256(file)) != file.sha256:
            yield f"its SHA-256 is {digest[:12]}…, the commit record says {file.sha256[:12]}…"
            return
        try:
            with self._open(file) as parquet:
                rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        except (OSError, pa.ArrowException, StoreError) as error:
            yield f"is not a Parquet file ({first_line(error)})"
            return
        if rows != file.rows:
            yield f"has {rows} rows, the commit record says {file.rows}"
        expected = _schema_of(file.table, record, version)
        if [(field.name, field.type) for field in schema] != [(field.name, field.type) for field in expected]:
            yield f"has columns {', '.join(schema.names)}; expected {', '.join(expected.names)}, or their types differ"

    def _sha256(self, file: FileRecord) -> str:
        digest = hashlib.sha256()
        for start in range(0, file.bytes, PIECE):
            digest.update(self._catalog.storage.read_range(file.path, start, min(start + PIECE, file.bytes)))
        return digest.hexdigest()

    def _open(self, file: FileRecord) -> pq.ParquetFile:
        return pq.ParquetFile(VerifiedFile(self._catalog, file), page_checksum_verification=True)

    def _content_problems(self, commit: CommitRecord, record: RunRecord, version: int) -> Iterator[tuple[str, str]]:
        """Yield where the numbers contradict each other; that every file is what was written is known by now."""
        files = {file.table: file for file in commit.files}
        content = ShardContent(record, commit, {name: self._open(file) for name, file in files.items()}, version)
        for name in ("sequences", "tokens", "profiles", "usage", "routes"):
            if name in files:
                try:
                    for reason in getattr(content, name)():
                        yield files[name].path, reason
                except (MoetraceError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
                    yield files[name].path, f"cannot be checked ({first_line(error)})"


def _schema_of(table: str, record: RunRecord, version: int) -> pa.Schema:
    schema = tables(record.num_experts)[table].schema
    for added, columns in ADDED_COLUMNS.items():
        if added > version:
            for name in columns.get(table, {}):
                schema = schema.remove(schema.get_field_index(name))
    return schema
