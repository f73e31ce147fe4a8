"""Where a store's files are: a local folder, or a prefix of any filesystem that fsspec knows (`s3://bucket/prefix`).

Every path is relative to the store. A file appears whole under a name that was free, or not at all: locally by a link
to a synced file, elsewhere by a conditional put. That is all that committing rests on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STAGING = "staging"


@dataclass(frozen=True)
class Entry:
    """A file as a listing shows it; `stamp` changes whenever the file is written anew."""

    path: str
    bytes: int
    stamp: str


class Storage(ABC):
    """The files of one store. What cannot be done raises OSError."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether there is anything at the store's place."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Tell whether there is a file of that name."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return a file's content; raise FileNotFoundError where it is not there."""

    @abstractmethod
    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, fewer where the file is shorter."""

    def read_all(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the content of many files; raise FileNotFoundError where one is not there."""
        return {path: self.read(path) for path in paths}

    @abstractmethod
    def listing(self, folder: str = "") -> list[Entry]:
        """Return all files under a folder, by path; none where it does not exist."""

    @abstractmethod
    def create(self, path: str, content: bytes, *, durable: bool = True) -> bool:
        """Write a small file whole under a free name; return False, nothing written, where the name is taken.

        `durable` files survive a power cut from the moment this returns.
        """

    @abstractmethod
    def replace(self, path: str, content: bytes) -> None:
        """Write a small file whole, in place of any of that name."""

    @abstractmethod
    def publish(self, staged: Path, path: str) -> bool:
        """Give a finished, synced local file its place; return False where the name is taken."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is removed already."""

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """Lend a new local folder for files to `publish`, and remove it afterwards."""

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Return the folders of shards that are, or were when their process died, being written."""


class LocalStorage(Storage):
    """A folder. A file is written under `staging/`, synced, and linked to its name, which fails where it is taken."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

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
        """Remove a file, also after a power cut."""
        final = self.root / path
        final.unlink(missing_ok=True)
        if final.parent.is_dir():
            sync_folder(final.parent)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Lend a folder under `staging/`, named after the process."""
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


class RemoteStorage(Storage):
    """A prefix of an fsspec filesystem that can put a file on condition that its name is free (S3, GCS, Azure, ...)."""

    def __init__(self, url: str) -> None:
        import fsspec  # noqa: PLC0415  stores are local, mostly

        super().__init__(url.rstrip("/"))
        try:
            with self._in_words():
                self.filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{url}: {str(error).splitlines()[0]}") from error
        self._root = root.rstrip("/")

    def exists(self) -> bool:
        """Tell whether any file is under the prefix."""
        with self._in_words():
            return bool(self.filesystem.find(self._root, maxdepth=1, withdirs=True))

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with self._in_words():
            content: bytes = self.filesystem.cat_file(self._full(path))
            return content

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return some of a file's bytes."""
        with self._in_words():
            content: bytes = self.filesystem.cat_file(self._full(path), start=start, end=end)
            return content

    def read_all(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the content of many files, fetched at the same time."""
        wanted = list(paths)
        if not wanted:
            return {}
        with self._in_words():
            found = self.filesystem.cat([self._full(path) for path in wanted])
        return {path: found[self._full(path)] for path in wanted}

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that name."""
        with self._in_words():
            return bool(self.filesystem.isfile(self._full(path)))

    def listing(self, folder: str = "") -> list[Entry]:
        """Return all files under a folder, by path."""
        with self._in_words():
            self.filesystem.invalidate_cache()
            found: dict[str, dict[str, Any]] = self.filesystem.find(self._full(folder), detail=True)
        cut = len(self._root) + 1
        entries = [Entry(path[cut:], int(about["size"]), _stamp(about)) for path, about in found.items()]
        return sorted(entries, key=lambda entry: entry.path)

    def create(self, path: str, content: bytes, *, durable: bool = True) -> bool:  # noqa: ARG002  a put is durable
        """Put a small file on condition that its name is free."""
        try:
            with self._in_words():
                self.filesystem.pipe_file(self._full(path), content, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, path: str, content: bytes) -> None:
        """Put a small file."""
        with self._in_words():
            self.filesystem.pipe_file(self._full(path), content)

    def publish(self, staged: Path, path: str) -> bool:
        """Upload a file on condition that its name is free; an upload that is cut off is never seen."""
        try:
            with self._in_words():
                self.filesystem.put_file(str(staged), self._full(path), mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Remove a file."""
        try:
            with self._in_words():
                self.filesystem.rm_file(self._full(path))
        except FileNotFoundError:
            pass

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Lend a folder of this machine: what is unfinished never reaches the store."""
        with tempfile.TemporaryDirectory(prefix="moetrace-") as folder:
            yield Path(folder)

    def unfinished(self) -> list[str]:
        """Return nothing: shards are staged on the machine that writes them."""
        return []

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Let OSError through; make a StoreError of whatever else a filesystem's own client raises."""
        try:
            yield
        except (OSError, ImportError, ValueError, StoreError):
            raise
        except Exception as error:
            said = str(error).splitlines() or [type(error).__name__]
            raise StoreError(f"{self.url}: {said[0]}") from error


def open_storage(place: str | Path) -> Storage:
    """Return the storage at a path or a URL; raise StoreError where its filesystem is unknown or cannot be reached."""
    text = str(place)
    if "://" in text and not text.startswith("file://"):
        return RemoteStorage(text)
    return LocalStorage(Path(text.removeprefix("file://")))


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stamp(about: dict[str, Any]) -> str:
    return str(about.get("ETag") or about.get("etag") or about.get("mtime") or about.get("created") or "")
