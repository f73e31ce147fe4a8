"""Everything that touches trace files: schema, layout, writing, committing, reading. Imports neither torch nor vllm.

The names below are imported when they are asked for: who reads a store does not load what writes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace._doors import doors

if TYPE_CHECKING:
    from moetrace.store.errors import (
        CaptureError,
        ImportFormatError,
        MoetraceError,
        RunMismatchError,
        StoreError,
        UnknownNameError,
    )
    from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
    from moetrace.store.read.catalog import ShardFile
    from moetrace.store.read.reader import Store
    from moetrace.store.shard.counts import Counts
    from moetrace.store.shard.shard import Shard
    from moetrace.store.write.writer import StoreWriter

__all__ = [
    "CaptureError",
    "CommitRecord",
    "Counts",
    "FileRecord",
    "ImportFormatError",
    "MoetraceError",
    "RunMismatchError",
    "RunRecord",
    "Shard",
    "ShardFile",
    "Store",
    "StoreError",
    "StoreWriter",
    "UnknownNameError",
]

__getattr__, __dir__ = doors(
    __name__,
    {
        "CaptureError": "errors",
        "CommitRecord": "format.records",
        "Counts": "shard.counts",
        "FileRecord": "format.records",
        "ImportFormatError": "errors",
        "MoetraceError": "errors",
        "RunMismatchError": "errors",
        "RunRecord": "format.records",
        "Shard": "shard.shard",
        "ShardFile": "read.catalog",
        "Store": "read.reader",
        "StoreError": "errors",
        "StoreWriter": "write.writer",
        "UnknownNameError": "errors",
    },
)
