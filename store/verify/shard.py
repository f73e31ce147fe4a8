"""Checking one shard: its commit record, then each file against it, then what the numbers say."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import MoetraceError, StoreError
from moetrace.store.format.schema import tables
from moetrace.store.read.verified import VerifiedFile
from moetrace.store.verify.content import ShardContent
from moetrace.store.verify.verdict import first_line, is_passing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
    from moetrace.store.read.catalog import Catalog
    from moetrace.store.storage.base import Entry
    from moetrace.store.verify.verdict import Verdict

PIECE = 1 << 22  # bytes hashed at a time


class ShardChecker:
    """Checks the files of one shard, whose commit record is known to be as written and of its run."""

    def __init__(
        self,
        catalog: Catalog,
        commit: CommitRecord,
        record: RunRecord,
        listed: dict[str, Entry],
        verdict: Verdict,
    ) -> None:
        self._catalog, self._commit, self._record = catalog, commit, record
        self._listed, self._verdict = listed, verdict
        self._version = commit.version or catalog.format.oldest

    def problems(self, *, quick: bool) -> Iterator[tuple[str, str, bool]]:
        """Yield path and reason of everything that is wrong, and whether it is a reason that may pass."""
        bad = False
        for file in self._commit.files:
            self._verdict.files += 1
            self._verdict.bytes += file.bytes
            for reason, passing in self._file_problems(file, quick=quick):
                bad = True
                yield file.path, reason, passing
        if not bad and not quick:
            yield from self._content_problems()

    def _file_problems(self, file: FileRecord, *, quick: bool) -> Iterator[tuple[str, bool]]:
        try:
            for reason in self._wrong_with(file, quick=quick):
                yield reason, False
        except FileNotFoundError:
            yield "is missing", False
        except (OSError, pa.ArrowException, StoreError) as error:
            if is_passing(error):
                yield f"cannot be read now ({first_line(error)})", True
            else:
                yield f"is not a Parquet file ({first_line(error)})", False

    def _wrong_with(self, file: FileRecord, *, quick: bool) -> Iterator[str]:
        # A file that was published after the listing is there now.
        found = self._listed.get(file.path) or self._catalog.storage.stat(file.path)
        if found is None:
            yield "is missing"
            return
        if found.bytes != file.bytes:
            yield f"has {found.bytes} bytes, the commit record says {file.bytes}"
            return
        if not quick and (digest := self._sha256(file)) != file.sha256:
            yield f"its SHA-256 is {digest[:12]}…, the commit record says {file.sha256[:12]}…"
            return
        with self._open(file) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        if rows != file.rows:
            yield f"has {rows} rows, the commit record says {file.rows}"
        expected = tables(self._record.num_experts)[file.table].schema_in(self._version)
        if [(field.name, field.type) for field in schema] != [(field.name, field.type) for field in expected]:
            yield f"has columns {', '.join(schema.names)}; expected {', '.join(expected.names)}, or their types differ"

    def _sha256(self, file: FileRecord) -> str:
        digest = hashlib.sha256()
        for start in range(0, file.bytes, PIECE):
            digest.update(self._catalog.storage.read_range(file.path, start, min(start + PIECE, file.bytes)))
        return digest.hexdigest()

    def _open(self, file: FileRecord) -> pq.ParquetFile:
        return pq.ParquetFile(VerifiedFile(self._catalog, file), page_checksum_verification=True)

    def _content_problems(self) -> Iterator[tuple[str, str, bool]]:
        """Yield where the numbers contradict each other; that every file is what was written is known by now."""
        files = {file.table: file for file in self._commit.files}
        opened = {name: self._open(file) for name, file in files.items()}
        content = ShardContent(self._record, self._commit, opened, self._version)
        for name in ("sequences", "tokens", "profiles", "usage", "routes"):
            if name in files:
                try:
                    for reason in getattr(content, name)():
                        yield files[name].path, reason, False
                except (OSError, MoetraceError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
                    yield files[name].path, f"cannot be checked ({first_line(error)})", is_passing(error)
