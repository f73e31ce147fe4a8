"""Opening a file that somebody else made: only where it is a regular file, so that no pipe or device is waited for."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # opening a pipe that nobody writes to would wait for ever


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading; raise OSError where it cannot be opened or is no regular file. Links are followed."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_WAITING)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def regular_size(path: str | Path) -> int:
    """Return the size of a file in bytes; raise OSError as `open_regular` does."""
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size


def read_regular(path: str | Path, most: int) -> bytes:
    """Return a file's content; raise OSError as `open_regular` does, and for more than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has more than the {most:,} bytes that are read", str(path))
        content = file.read(size + 1)
    if len(content) > size:  # it grew, or is one of /proc, which say that they are empty
        raise OSError(errno.EFBIG, "it has more bytes than it says", str(path))
    return content
