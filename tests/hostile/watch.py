"""What a command touches: every file that Python opens or changes, and whatever anybody does in the canary."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LISTED = {"os.listdir", "os.scandir"}
CHANGED = {  # by the number of paths that come first
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.utime": 1,
    "os.setxattr": 1,
}
NEVER = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.fork",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.sendto",
    "urllib.",
    "pty.spawn",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Seen = set[tuple[str, str]]  # "reads", "writes" or "never", and what


def watch() -> Seen:
    """Start to note what this process does; for ever, as Python takes no hook away."""
    seen: Seen = set()
    busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if not busy:
            busy = True  # what is done to note an event is none
            try:
                seen.update(_noted(event, arguments))
            finally:
                busy = False

    sys.addaudithook(hook)
    return seen


def _noted(event: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    if event == "open":
        path, _, flags = arguments
        kind = "writes" if (flags or 0) & WRITES else "reads"
        yield from ((kind, place) for place in _resolved([path], None, follows=not (flags or 0) & os.O_NOFOLLOW))
    elif event in LISTED:
        yield from (("reads", place) for place in _resolved([arguments[0] or "."], None, follows=True))
    elif event in CHANGED:
        count = CHANGED[event]
        folders = [each for each in arguments[count:] if isinstance(each, int) and each >= 0]
        folder = folders[-1] if folders and event in {"os.remove", "os.rmdir"} else None
        paths = arguments[1:2] if event == "os.symlink" else arguments[:count]
        follows = event in {"os.truncate", "os.chmod"}
        yield from (("writes", place) for place in _resolved(paths, folder, follows=follows))
    elif event.startswith(NEVER):
        yield ("never", f"{event} {arguments!r:.200}")


def _resolved(paths: Iterable[object], folder: int | None, *, follows: bool) -> Iterator[str]:
    """Yield where paths lead, links on the way followed; the last part only where the call follows it."""
    for path in paths:
        if not isinstance(path, (str, bytes)):
            continue  # a handle, of what was opened before
        name = os.fsdecode(path)
        if folder is not None and not name.startswith("/"):
            name = f"{os.readlink(f'/proc/self/fd/{folder}')}/{name}"  # noqa: PTH115
        if follows:
            yield os.path.realpath(name)
        else:
            above, _, last = os.path.abspath(name).rpartition("/")  # noqa: PTH100
            yield f"{os.path.realpath(above)}/{last}"


class Inotify:
    """Every opening, reading and change of a folder, by whatever code, native code too: what Linux says of it."""

    ANY = 0x00000FFF  # access, modify, attrib, close, open, moves, create, delete

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._handle = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._handle >= 0, "no inotify"
        self._names: dict[int, str] = {}
        for inside in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            number = library.inotify_add_watch(self._handle, os.fsencode(inside), self.ANY)
            assert number >= 0, os.strerror(ctypes.get_errno())
            self._names[number] = str(inside)
        self.take()

    def take(self) -> list[str]:
        """Return what was touched since the last call."""
        found = set()
        try:
            while content := os.read(self._handle, 1 << 16):
                at = 0
                while at < len(content):
                    number, mask, _, length = struct.unpack_from("iIII", content, at)
                    name = content[at + 16 : at + 16 + length].rstrip(b"\0").decode()
                    found.add(f"{self._names.get(number, '')}/{name} {mask:#x}")
                    at += 16 + length
        except BlockingIOError:
            pass
        return sorted(found)


def states(folder: Path, without: Iterable[str] = ()) -> dict[str, tuple[int, ...]]:
    """Return kind, size and time of everything under a folder, by path; links are not followed."""
    found = {}
    for above, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = f"{above}/{name}"
            inside = os.path.relpath(path, folder)
            if inside.split("/")[0] in without:
                continue
            known = os.lstat(path)
            is_folder = name in folders and not os.path.islink(path)  # noqa: PTH114
            found[inside] = (known.st_mode, *(() if is_folder else (known.st_size, known.st_mtime_ns)))
    return found
