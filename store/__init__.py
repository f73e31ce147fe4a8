"""Everything that touches trace files: schema, layout, writing, committing, reading. Imports neither torch nor vllm."""

from store.counts import Counts
from store.errors import (
    CaptureError,
    ImportFormatError,
    MoetraceError,
    RunMismatchError,
    StoreError,
    UnknownNameError,
)
from store.reader import ShardFile, Store
from store.records import CommitRecord, FileRecord, RunRecord
from store.shard import Shard
from store.writer import StoreWriter

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
