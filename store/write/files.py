"""Parquet files, hashed while they are written."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.format.blocks import BlockChecksums
from moetrace.store.format.records import FileRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from moetrace.store.format.schema import Table

    RowGroups = Iterator[pa.Table]

# zstd compresses a page by itself, 128 KiB of it at a time: in a page of a whole layer, each byte of the weights (split
# by BYTE_STREAM_SPLIT) has blocks of its own. Smaller pages cost 0.2 bytes a decision.
PAGE_ROWS = 1 << 19
WRITE_BYTES = 1 << 19  # Arrow writes every page and every page header by itself


class HashedFile:
    """A new file whose size and checksums are known when the last byte is written; it is not read back."""

    def __init__(self, path: Path) -> None:
        self._handle = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._blocks = BlockChecksums()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Tell whether the file was closed."""
        return self._handle.closed

    def write(self, content: bytes) -> int:
        """Append all of `content`."""
        self._waiting.append(content)
        self._waiting_bytes += len(content)
        if self._waiting_bytes >= WRITE_BYTES:
            self.flush()
        return len(content)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        content = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._digest.update(content)
        self._blocks.update(content)
        self.bytes += len(content)
        rest = memoryview(content)
        while rest:
            rest = rest[self._handle.write(rest) :]

    def finish(self, path: str, table: str, rows: int) -> FileRecord:
        """Return the record of the whole file, which gets its place later."""
        self.flush()
        return FileRecord(path, table, rows, self.bytes, self._digest.hexdigest(), self._blocks.hex())

    def sync(self) -> None:
        """Return when the file is on the disk."""
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def write_parquet(sink: Path | HashedFile, table: Table, groups: RowGroups) -> int:
    """Write row groups with the table's encodings and page checksums; return the number of rows."""
    rows = 0
    with pq.ParquetWriter(
        sink,
        table.schema,
        **table.compression,
        use_dictionary=False,
        write_batch_size=PAGE_ROWS,
        max_rows_per_page=PAGE_ROWS,
        column_encoding=table.encodings,
        write_statistics=list(table.statistics),
        write_page_checksum=True,
        version="2.6",
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(group.num_rows, 1))
            rows += group.num_rows
    return rows
