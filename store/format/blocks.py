"""Checksums of a file's blocks, so that any part of it can be read and trusted without reading the whole."""

from __future__ import annotations

import zlib

from moetrace.store.errors import StoreError

BLOCK = 1 << 16  # bytes


class BlockChecksums:
    """CRC-32 of every 64 KiB of a file while it is written, as 8 hexadecimal digits a block."""

    def __init__(self) -> None:
        self._finished: list[int] = []
        self._current, self._filled = 0, 0

    def update(self, content: bytes) -> None:
        """Add the next bytes."""
        rest = memoryview(content)
        while rest:
            taken = rest[: BLOCK - self._filled]
            self._current = zlib.crc32(taken, self._current)
            self._filled += len(taken)
            rest = rest[len(taken) :]
            if self._filled == BLOCK:
                self._finished.append(self._current)
                self._current, self._filled = 0, 0

    def hex(self) -> str:
        """Return the checksums of all blocks, the last one of what is left over."""
        last = [self._current] if self._filled else []
        return "".join(f"{crc:08x}" for crc in [*self._finished, *last])


def check_blocks(content: bytes, first: int, crc32: str, where: str) -> None:
    """Raise StoreError where `content`, which begins at block `first`, is not what was written."""
    view = memoryview(content)
    for number in range(-(-len(content) // BLOCK)):
        found = zlib.crc32(view[number * BLOCK : (number + 1) * BLOCK])
        at = 8 * (first + number)
        if crc32[at : at + 8] != f"{found:08x}":
            raise StoreError(
                f"{where}: damaged near byte {(first + number) * BLOCK}; see `moetrace verify`, whose --repair lets "
                "the next trace write the shard again"
            )
