"""A store in a folder of this machine."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError
from moetrace.store.format.layout import STAGING, checked_path, is_hidden
from moetrace.store.storage.base import MOST_OF_A_RECORD, Entry, Storage, not_a_file
from moetrace.store.storage.processes import scratch_is_gone, scratch_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OPENED = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
ABANDONED = 3600.0  # seconds without a change after which another machine's unfinished writing is nobody's


class LocalStorage(Storage):
    """A folder. A file is written under `staging/`, synced, and linked to its name, which fails where it is taken.

    The folder itself may be a link, it is what a person named; nothing in it may be.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

    @property
    def location(self) -> str:
        """Return the folder's absolute path."""
        return str(self.root.absolute())

    def exists(self) -> bool:
        """Tell whether the folder exists and anything but unfinished writing is in it."""
        if not self.root.exists():
            return False
        if not self.root.is_dir():
            raise StoreError(f"{self.root}: is a file, not a store; choose another --store")
        return any(entry.name != STAGING and not is_hidden(entry.name) for entry in os.scandir(self.root))

    def read(self, path: str, most: int = MOST_OF_A_RECORD) -> bytes:
        """Return a file's content."""
        handle, size = self._open(path)
        try:
            if size > most:
                raise StoreError(f"{self.root / path}: has {size:,} bytes, a record has at most {most:,}")
            return _read(handle, 0, size)
        finally:
            os.close(handle)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return some of a file's bytes."""
        handle, size = self._open(path)
        try:
            return _read(handle, start, min(end, size))
        finally:
            os.close(handle)

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that name."""
        return self.stat(path) is not None

    def stat(self, path: str) -> Entry | None:
        """Return what a listing would show of a file now."""
        final = self._inside(path)
        try:
            found = _entry(path, final.lstat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        if found.strange:
            raise not_a_file(str(final), found.strange)
        return found

    def entries(self, folder: str = "") -> list[Entry]:
        """Return everything under a folder that is not a folder itself, by path. A link is shown, never followed."""
        found: list[Entry] = []
        if folder:
            self._refuse_links(folder)
        folders = [f"{folder}/" if folder else ""]
        while folders:
            inside = folders.pop()
            try:
                entries = os.scandir(self.root / inside)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{inside}{entry.name}/")
                        else:
                            found.append(_entry(inside + entry.name, entry.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue  # taken away between the listing and the look
        return sorted(found, key=lambda entry: entry.path)

    def create(self, path: str, content: bytes, *, durable: bool = True) -> bool:
        """Write a small file under a free name."""
        final = self._place(path)
        with self._staged(content, durable=durable) as staged:
            return _link(staged, final, durable=durable)

    def replace(self, path: str, content: bytes) -> None:
        """Write a small file in place of another."""
        final = self._place(path)
        with self._staged(content, durable=True) as staged:
            staged.replace(final)
            sync_folder(final.parent)

    def publish(self, staged: Path, path: str) -> bool:
        """Link a staged file to its name and take its staged name away."""
        if not _link(staged, self._place(path), durable=True):
            return False
        staged.unlink(missing_ok=True)
        return True

    def move(self, path: str, to: str) -> None:
        """Rename a file; a power cut does not bring it back."""
        source, final = self._inside(path), self._inside(to)
        if not self.has(path):
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        if _link(source, final, durable=True):
            source.unlink(missing_ok=True)
            sync_folder(source.parent)

    def delete(self, path: str) -> None:
        """Remove a file; a power cut does not bring it back."""
        final = self._inside(path)
        final.unlink(missing_ok=True)
        if final.parent.is_dir():
            sync_folder(final.parent)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a new folder under `staging/`, named after the machine and the process."""
        self._refuse_links(STAGING)
        folder = self.root / STAGING / scratch_name()
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def unfinished(self) -> list[str]:
        """Return what is under `staging/`."""
        return [f"{STAGING}/{entry.name}" for entry in self._staging_folders()]

    def sweep(self) -> list[str]:
        """Remove what processes that are gone have left under `staging/`."""
        gone = [entry for entry in self._staging_folders() if not _may_be_alive(entry, self.now)]
        for entry in gone:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                (self.root / STAGING / entry.name).unlink(missing_ok=True)
        return [f"{STAGING}/{entry.name}" for entry in gone]

    def now(self) -> float:
        """Return the time that a file gets which is written now."""
        with self._staged(b"", durable=False) as staged:
            return staged.stat().st_mtime

    def _staging_folders(self) -> list[os.DirEntry[str]]:
        self._refuse_links(STAGING)
        folder = self.root / STAGING
        found = os.scandir(folder) if folder.is_dir() else iter(())
        return sorted((entry for entry in found if not is_hidden(entry.name)), key=lambda entry: entry.name)

    @contextmanager
    def _staged(self, content: bytes, *, durable: bool) -> Iterator[Path]:
        with self.staging() as folder:
            staged = folder / "file"
            with staged.open("wb", buffering=0) as file:
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
                if durable:
                    os.fsync(file.fileno())
            yield staged

    def _open(self, path: str) -> tuple[int, int]:
        """Return a handle of a file, and its size. Nothing waits for what is no file, such as a pipe."""
        self._check(path)
        final = f"{self.url}/{path}"
        try:
            handle = os.open(final, OPENED)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise not_a_file(final, "a symbolic link") from error
            raise
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            os.close(handle)
            raise not_a_file(final, _kind(found.st_mode))
        return handle, found.st_size

    def _inside(self, path: str) -> Path:
        """Return where a path of the layout is; raise StoreError where a link stands on the way."""
        self._check(path)
        return self.root / path

    def _check(self, path: str) -> None:
        """Raise StoreError where a path is none of the layout, or a link stands on the way."""
        checked_path(path)
        self._refuse_links(path.rpartition("/")[0])

    def _place(self, path: str) -> Path:
        final = self._inside(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        return final

    def _refuse_links(self, folder: str) -> None:
        """Raise StoreError where a folder, or one that it is in, is a link or anything else that is no folder."""
        at = self.url
        for part in folder.split("/") if folder else ():
            at = f"{at}/{part}"
            try:
                mode = os.lstat(at).st_mode
            except (FileNotFoundError, NotADirectoryError):
                return
            if not stat.S_ISDIR(mode):
                raise not_a_file(at, _kind(mode))


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _link(staged: Path, final: Path, *, durable: bool) -> bool:
    try:
        os.link(staged, final)
    except FileExistsError:
        return False
    except PermissionError:
        # No hard links here (exFAT, some network mounts): two writers in one instant are not told apart.
        if final.exists():
            return False
        staged.replace(final)
    if durable:
        sync_folder(final.parent)
    return True


def _read(handle: int, start: int, end: int) -> bytes:
    os.lseek(handle, start, os.SEEK_SET)
    pieces, left = [], end - start
    while left > 0 and (piece := os.read(handle, min(left, 1 << 30))):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _entry(path: str, found: os.stat_result) -> Entry:
    strange = "" if stat.S_ISREG(found.st_mode) else _kind(found.st_mode)
    return Entry(path, found.st_size, f"{found.st_mtime_ns:x}", found.st_mtime, strange)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device or a socket")


def _may_be_alive(folder: os.DirEntry[str], now: Callable[[], float]) -> bool:
    """Tell whether a process may still write into a folder of `staging/`."""
    if (gone := scratch_is_gone(folder.name)) is not None:
        return not gone
    try:
        inside = [folder.stat(follow_symlinks=False).st_mtime]
        if folder.is_dir(follow_symlinks=False):
            inside += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(folder.path)]
    except FileNotFoundError:
        return False
    return abs(now() - max(inside)) < ABANDONED
