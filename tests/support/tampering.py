"""Tables of a store changed so that every checksum is right and the content is not."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.format.blocks import BlockChecksums
from tests.support.records import read_record, write_record
from tests.support.stores import data_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


def rewritten(store: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table of a shard and its commit record: all checksums are right, the content is not."""
    path = data_file(store, table)
    rows = change(pq.read_table(path, partitioning=None))
    groups = 3 if table == "routes" else 1
    pq.write_table(rows, path, row_group_size=max(1, len(rows) // groups), compression="zstd")
    record = store / "commits/run=run/lang=deu_Latn/00000.json"
    commit = read_record(record)
    (file,) = (file for file in commit["files"] if file["table"] == table)
    content = path.read_bytes()
    blocks = BlockChecksums()
    blocks.update(content)
    file.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), rows=len(rows), crc32=blocks.hex())
    write_record(record, commit)


def column(name: str, change: Callable[[np.ndarray], np.ndarray], rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index(name)
    values = rows.column(name).to_numpy().copy()
    return rows.set_column(at, rows.schema.field(name), pa.array(change(values), rows.schema.field(name).type))


def put(at: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[at] = value
        return values

    return change
