"""The committed files of a store as a filesystem that returns only bytes that were written.

DuckDB checks no checksum: a flipped bit in a page becomes a wrong number. So what it reads of a store it reads here,
where every block is held against the checksum in the commit record; local and remote stores alike.
"""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem

from moetrace.store.errors import StoreError, UnreadableError
from moetrace.store.format.blocks import BLOCK, check_blocks
from moetrace.store.format.records import FileRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from moetrace.store.read.catalog import Catalog

PROTOCOL = "moetrace"
SMALL, KEPT = 1 << 18, 256  # bytes of a file that is kept in memory whole, and how many such files


def verified_url(path: str) -> str:
    """Return how SQL names a committed file."""
    return f"{PROTOCOL}://{path}"


class VerifiedFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What `register_filesystem` of a DuckDB connection takes: the files of one store, read-only.

    added: files that are in memory only, by paths that no store has
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, catalog: Catalog, added: Mapping[str, pa.Buffer] | None = None) -> None:
        super().__init__()
        self._catalog = catalog
        self._added = {
            path: (FileRecord(path, "rollups", 0, content.size, ""), memoryview(content))
            for path, content in (added or {}).items()
        }
        # DuckDB opens a file several times to read its footer and its columns: of small ones, in one request.
        self._small = lru_cache(maxsize=KEPT)(lambda record: read_verified(catalog, record, 0, record.bytes))

    def open(self, path: str, mode: str = "rb", **_: Any) -> VerifiedFile:
        """Open a committed file for reading."""
        if mode != "rb":
            raise StoreError(f"{path}: a store is read-only")
        if added := self._added.get(_relative(path)):
            return VerifiedFile(self._catalog, *added)
        record = self._catalog.file_record(_relative(path))
        whole = self._small(record) if record.bytes <= SMALL else None
        return VerifiedFile(self._catalog, record, whole)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return a file's name and size, as its commit record says."""
        return {"name": path, "size": self._record(path).bytes, "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the path itself: nothing is ever searched."""
        return [path]

    def exists(self, path: str, **_: Any) -> bool:
        """Tell whether a commit record names the file."""
        try:
            self._record(path)
        except StoreError:
            return False
        return True

    def modified(self, path: str) -> datetime:  # noqa: ARG002  fsspec's interface
        """Return one moment for all files: what is committed does not change."""
        return datetime.fromtimestamp(0, UTC)

    def _record(self, path: str) -> FileRecord:
        added = self._added.get(_relative(path))
        return added[0] if added else self._catalog.file_record(_relative(path))


class VerifiedFile(io.RawIOBase):
    """A committed file, or its `whole` content. Every thread has its own position: DuckDB's threads share handles."""

    def __init__(self, catalog: Catalog, record: FileRecord, whole: bytes | memoryview | None = None) -> None:
        super().__init__()
        self._catalog, self._record, self._whole = catalog, record, whole
        self._local = threading.local()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move this thread's position."""
        start = {0: 0, 1: self.tell(), 2: self._record.bytes}[whence]
        self._local.position = start + offset
        return start + offset

    def tell(self) -> int:
        """Return this thread's position."""
        return getattr(self._local, "position", 0)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; raise StoreError where they are not what was written."""
        start = self.tell()
        end = self._record.bytes if size < 0 else min(start + size, self._record.bytes)
        self._local.position = end
        if self._whole is not None:
            return bytes(self._whole[start:end])
        return read_verified(self._catalog, self._record, start, end)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read at any position."""
        return True


def read_verified(catalog: Catalog, record: FileRecord, start: int, end: int) -> bytes:
    """Return the bytes of a committed file from `start` up to `end`; raise StoreError where they are not as written."""
    where = f"{catalog.url}: {record.path}"
    first = start // BLOCK
    until = min(-(-end // BLOCK) * BLOCK, record.bytes)
    try:
        content = catalog.storage.read_range(record.path, first * BLOCK, until)
    except FileNotFoundError as error:
        raise StoreError(f"{where}: is missing; see `moetrace verify`") from error
    except OSError as error:
        raise UnreadableError(f"{where}: cannot be read ({error.strerror or error}); see `moetrace verify`") from error
    if len(content) != until - first * BLOCK:
        raise StoreError(f"{where}: is cut off; see `moetrace verify`")
    if (crc32 := catalog.checksums(record)) is not None:
        check_blocks(content, first, crc32, where)
    return content[start - first * BLOCK : end - first * BLOCK]


def _relative(path: str) -> str:
    return path.removeprefix(f"{PROTOCOL}://").lstrip("/")
