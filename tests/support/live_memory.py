"""Traces a corpus and notes, shard by shard, how many bytes of memory are in use.

`python -m tests.support.live_memory FILE KEPT ARGUMENTS`: ARGUMENTS are those of `moetrace`; into FILE goes a line of
JSON a shard (`tokens` so far, `live` bytes, shards `kept`). From shard number KEPT on, every shard is kept in memory,
as a trace must not do.

What the process has of the system is no measure of what it holds: tens of MiB of what was freed stay with the
allocator, more of them on one machine than on the next. Counted is what malloc (arrays of NumPy and torch) and Arrow
have given out, and Python's objects.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from moetrace.cli import main as program
from moetrace.tracer.runs.outlet import Outlet

if TYPE_CHECKING:
    from moetrace.store.shard.shard import Shard

OBJECT = 64  # bytes of a Python object, about


class MallocInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns: in use are `uordblks`, and `hblkhd` of large blocks."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


LIBRARY = ctypes.CDLL(None)
LIBRARY.mallinfo2.restype = MallocInfo


def live() -> int:
    """Bytes in use, once what nobody holds is collected."""
    gc.collect()
    info = LIBRARY.mallinfo2()
    return int(info.uordblks + info.hblkhd + pa.total_allocated_bytes() + OBJECT * sys.getallocatedblocks())


def main(path: str, first_kept: str, *arguments: str) -> int:
    kept: list[Shard] = []
    tokens: list[int] = []
    put = Outlet.put

    def put_and_note(self: Outlet, shard: Shard) -> None:
        if len(tokens) >= int(first_kept):
            kept.append(shard)
        tokens.append(shard.tokens)
        put(self, shard)
        line = json.dumps({"tokens": sum(tokens), "live": live(), "kept": len(kept)})
        with Path(path).open("a") as file:
            file.write(f"{line}\n")

    Outlet.put = put_and_note  # type: ignore[method-assign]
    return program.run(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
