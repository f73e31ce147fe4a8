"""A store in a folder of this machine."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError
from moetrace.store.storage.base import Entry, Storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAGING = "staging"


class LocalStorage(Storage):
    """A folder. A file is written under `staging/`, synced, and linked to its name, which fails where it is taken."""

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
        return any(entry.name != STAGING for entry in os.scandir(self.root))

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with (self.root / path).open("rb", buffering=0) as file:
            return file.read()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return some of a file's bytes."""
        with (self.root / path).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(end - start)

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that name."""
        return (self.root / path).is_file()

    def listing(self, folder: str = "") -> list[Entry]:
        """Return all files under a folder, by path."""
        found: list[Entry] = []
        folders = [f"{folder}/" if folder else ""]
        while folders:
            inside = folders.pop()
            try:
                entries = os.scandir(self.root / inside)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append(f"{inside}{entry.name}/")
                        continue
                    status = entry.stat()
                    stamp = f"{status.st_mtime_ns:x}-{status.st_ino:x}"
                    found.append(Entry(inside + entry.name, status.st_size, stamp))
        return sorted(found, key=lambda entry: entry.path)

    def create(self, path: str, content: bytes, *, durable: bool = True) -> bool:
        """Write a small file under a free name."""
        with self._staged(content, durable=durable) as staged:
            return self._link(staged, path, durable=durable)

    def replace(self, path: str, content: bytes) -> None:
        """Write a small file in place of another."""
        with self._staged(content, durable=True) as staged:
            final = self._place(path)
            staged.replace(final)
            sync_folder(final.parent)

    def publish(self, staged: Path, path: str) -> bool:
        """Link a staged file to its name and take its staged name away."""
        if not self._link(staged, path, durable=True):
            return False
        staged.unlink(missing_ok=True)
        return True

    def delete(self, path: str) -> None:
        """Remove a file; a power cut does not bring it back."""
        final = self.root / path
        final.unlink(missing_ok=True)
        if final.parent.is_dir():
            sync_folder(final.parent)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a new folder under `staging/`, named after the process."""
        folder = self.root / STAGING / f"{os.getpid()}-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def unfinished(self) -> list[str]:
        """Return what is under `staging/`."""
        folder = self.root / STAGING
        return sorted(f"{STAGING}/{entry.name}" for entry in os.scandir(folder)) if folder.is_dir() else []

    @contextmanager
    def _staged(self, content: bytes, *, durable: bool) -> Iterator[Path]:
        with self.staging() as folder:
            staged = folder / "file"
            with staged.open("wb", buffering=0) as file:
                file.write(content)
                if durable:
                    os.fsync(file.fileno())
            yield staged

    def _link(self, staged: Path, path: str, *, durable: bool) -> bool:
        final = self._place(path)
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

    def _place(self, path: str) -> Path:
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        return final


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
