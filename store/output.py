"""The file that a person names with -o: it is written whole, or stays as it was."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAMS = ("/dev/fd", "/dev/stderr", "/dev/stdout", "/proc")  # what is open already, whatever kind of file it is


class OutputError(MoetraceError):
    """A file cannot be written where it should be; the message names it and says why."""


@contextmanager
def written_whole(target: str | Path) -> Iterator[Path]:
    """Yield the path to write to; what is there at the end replaces `target`, after an error nothing has changed.

    What is written lies beside the target until it is on the disk. A target that exists and is no ordinary file (a
    pipe, /dev/stdout, /dev/null) is written to itself. The block should do nothing but write: an OSError in it, and
    text that is no Unicode, are raised as an OutputError of one line, as is what keeps the file from its place.
    """
    path = Path(target)
    try:
        if _is_written_to_itself(path):
            yield path
            return
        place = path.resolve()  # of a link, what it points to: the link stays one
        staged = place.with_name(f".moetrace-{secrets.token_hex(8)}")
        try:
            staged.touch(exist_ok=False)  # a folder that takes no file is found out here, whoever writes the file then
            staged.unlink()
            yield staged
            _replace(place, staged)
        finally:
            staged.unlink(missing_ok=True)
    except (OSError, UnicodeEncodeError) as error:
        raise OutputError(f"{path}: cannot be written ({_reason(error, path)})") from error


def write_bytes(target: str | Path, content: bytes) -> None:
    """Write a file whole or not at all; raise OutputError where that cannot be done."""
    with written_whole(target) as path, path.open("ab") as file:  # appended: /dev/stdout may lead into somebody's log
        file.write(content)


def write_text(target: str | Path, text: str) -> None:
    """Write a text file, UTF-8, as `write_bytes` does."""
    with written_whole(target) as path, path.open("ab") as file:
        file.write(text.encode())


def _is_written_to_itself(path: Path) -> bool:
    if path.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    absolute = os.path.abspath(path)  # noqa: PTH100  not resolved: where /dev/stdout leads does not matter
    if any(absolute == stream or absolute.startswith(f"{stream}/") for stream in STREAMS):
        return True
    return path.exists() and not path.is_file()


def _replace(place: Path, staged: Path) -> None:
    """Put `staged` in its place, once its bytes are on the disk; a file that was there gives it its permissions."""
    with staged.open("rb+") as file:
        os.fsync(file.fileno())
    if place.exists():
        shutil.copymode(place, staged)
    staged.replace(place)


def _reason(error: OSError | UnicodeEncodeError, path: Path) -> str:
    if isinstance(error, FileNotFoundError) and not path.parent.exists():
        return "no such folder"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
