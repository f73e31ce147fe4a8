"""Shards changed by hand, checksums and all: into ones that contradict themselves, or into those of an older format."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from moetrace.store.format.blocks import BlockChecksums
from moetrace.store.format.layout import FORMAT
from moetrace.store.format.schema import ADDED_COLUMNS
from moetrace.store.format.sealed import sealed_text
from moetrace.store.read.store_format import SEALED_SINCE
from tests.support.records import read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

BLOCK_CHECKSUMS_SINCE = 3  # and commit records that say their version


def rewrite_table(store: Path, commit: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table of a shard and its commit record: all checksums are right, the content may not be."""
    record = read_record(commit)
    for file in record["files"]:
        if file["table"] == table:
            _rewrite(store, file, change)
    write_record(commit, record)


def as_written_in(version: int, store: Path) -> Path:
    """Make a store one that the moetrace of an older format version wrote: columns, checksums and copies lack."""
    sealed = version >= SEALED_SINCE
    for path in store.glob("commits/**/[0-9]*.json"):
        record = read_record(path)
        record["version"] = version
        for file in record["files"]:
            later = [columns for since, columns in ADDED_COLUMNS.items() if since > version]
            lacking = [name for columns in later for name in columns.get(file["table"], {})]
            if lacking:
                _rewrite(store, file, lambda rows, lacking=lacking: rows.drop_columns(lacking))
            if version < BLOCK_CHECKSUMS_SINCE:
                del file["crc32"]
        if version < BLOCK_CHECKSUMS_SINCE:
            del record["version"]
        _write(path, record, sealed=sealed)
    for path in store.glob("runs/*.json"):
        _write(path, read_record(path), sealed=sealed)
    if not sealed:
        for copy in store.glob("commits/*/run.json"):
            copy.unlink()
    _write(store / FORMAT, {"format": "moetrace-store", "version": version}, sealed=sealed)
    return store


def _rewrite(store: Path, file: dict[str, Any], change: Callable[[pa.Table], pa.Table]) -> None:
    path = store / file["path"]
    groups = pq.ParquetFile(path).metadata.num_row_groups
    rows = change(pq.read_table(path, partitioning=None))
    pq.write_table(rows, path, row_group_size=max(1, len(rows) // groups), compression="zstd")
    content = path.read_bytes()
    blocks = BlockChecksums()
    blocks.update(content)
    file.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), rows=len(rows), crc32=blocks.hex())


def _write(path: Path, record: dict[str, Any], *, sealed: bool) -> None:
    path.write_text(sealed_text(record) if sealed else json.dumps(record), encoding="utf-8")
