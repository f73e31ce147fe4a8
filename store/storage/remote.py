"""A store under a prefix of any filesystem that fsspec knows (`s3://bucket/prefix`)."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError, UnreadableError
from moetrace.store.format.layout import CLAIMS, checked_path
from moetrace.store.storage.base import MOST_OF_A_RECORD, Entry, Storage
from moetrace.store.storage.processes import scratch_is_gone, scratch_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCRATCH = "moetrace-"


class RemoteStorage(Storage):
    """A prefix of an fsspec filesystem that can put a file on condition that its name is free (S3, GCS, Azure, ...)."""

    def __init__(self, url: str) -> None:
        import fsspec  # noqa: PLC0415  stores are local, mostly

        super().__init__(url.rstrip("/"))
        try:
            with self._client_errors_as_store_errors():
                self.filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{url}: {str(error).splitlines()[0]}") from error
        self._root = root.rstrip("/")

    def exists(self) -> bool:
        """Tell whether any file is under the prefix."""
        with self._client_errors_as_store_errors():
            return bool(self.filesystem.find(self._root, maxdepth=1, withdirs=True))

    def read(self, path: str, most: int = MOST_OF_A_RECORD) -> bytes:
        """Return a file's content."""
        with self._client_errors_as_store_errors():
            try:
                content: bytes = self.filesystem.cat_file(self._full(path), start=0, end=most + 1)
            except FileNotFoundError:
                raise
            except OSError:  # S3 has no range of an empty file
                if self.filesystem.info(self._full(path))["size"]:
                    raise
                content = b""
        if len(content) > most:
            raise StoreError(f"{self.url}: {path}: has more than {most:,} bytes, the most of a record")
        return content

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return some of a file's bytes."""
        with self._client_errors_as_store_errors():
            content: bytes = self.filesystem.cat_file(self._full(path), start=start, end=end)
            return content

    def read_all(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the content of many files, fetched at the same time."""
        wanted = list(paths)
        if not wanted:
            return {}
        with self._client_errors_as_store_errors():
            found = self.filesystem.cat([self._full(path) for path in wanted])
        if isinstance(found, bytes):  # of a single path, some filesystems return the content itself
            found = {self._full(wanted[0]): found}
        return {path: found[self._full(path)] for path in wanted}

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that name."""
        with self._client_errors_as_store_errors():
            return bool(self.filesystem.isfile(self._full(path)))

    def stat(self, path: str) -> Entry | None:
        """Return what a listing would show of a file now."""
        try:
            with self._client_errors_as_store_errors():
                self.filesystem.invalidate_cache()
                about = self.filesystem.info(self._full(path))
        except FileNotFoundError:
            return None
        return _entry(path, about) if about["type"] == "file" else None

    def entries(self, folder: str = "") -> list[Entry]:
        """Return all files under a folder, by path; there are no links."""
        where = f"{self._root}/{folder}" if folder else self._root
        with self._client_errors_as_store_errors():
            self.filesystem.invalidate_cache()
            found: dict[str, dict[str, Any]] = self.filesystem.find(where, detail=True)
        cut = len(self._root) + 1
        # Of a folder that fills in this moment, s3fs may say that it is a folder.
        entries = [_entry(path[cut:], about) for path, about in found.items() if about["type"] == "file"]
        return sorted(entries, key=lambda entry: entry.path)

    def create(self, path: str, content: bytes, *, durable: bool = True) -> bool:  # noqa: ARG002  a put is durable
        """Put a small file on condition that its name is free."""
        try:
            with self._client_errors_as_store_errors():
                self.filesystem.pipe_file(self._full(path), content, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, path: str, content: bytes) -> None:
        """Put a small file."""
        with self._client_errors_as_store_errors():
            self.filesystem.pipe_file(self._full(path), content)

    def publish(self, staged: Path, path: str) -> bool:
        """Upload a file on condition that its name is free; an upload that is cut off is never seen."""
        try:
            with self._client_errors_as_store_errors():
                self.filesystem.put_file(str(staged), self._full(path), mode="create")
        except FileExistsError:
            return False
        return True

    def move(self, path: str, to: str) -> None:
        """Copy a file, then remove it."""
        try:
            with self._client_errors_as_store_errors():
                self.filesystem.cp_file(self._full(path), self._full(to))
        except FileNotFoundError:
            return
        self.delete(path)

    def delete(self, path: str) -> None:
        """Remove a file."""
        try:
            with self._client_errors_as_store_errors():
                self.filesystem.rm_file(self._full(path))
        except FileNotFoundError:
            pass

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a temporary folder of this machine: what is unfinished never reaches the store."""
        folder = Path(tempfile.gettempdir()) / f"{SCRATCH}{scratch_name()}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def unfinished(self) -> list[str]:
        """Return nothing: shards are staged on the machine that writes them."""
        return []

    def sweep(self) -> list[str]:
        """Remove the temporary folders that processes of this machine have left; return their paths."""
        found = os.scandir(tempfile.gettempdir())
        gone = [
            entry.path
            for entry in found
            if entry.name.startswith(SCRATCH)
            and entry.is_dir(follow_symlinks=False)
            and scratch_is_gone(entry.name.removeprefix(SCRATCH))
        ]
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
        return sorted(gone)

    def now(self) -> float:
        """Return the time that a file gets which is put now."""
        path = f"{self._root}/{CLAIMS}/clock-{uuid.uuid4().hex}"
        with self._client_errors_as_store_errors():
            self.filesystem.pipe_file(path, b"clock")
            try:
                self.filesystem.invalidate_cache()
                return _entry("", self.filesystem.info(path)).modified
            finally:
                self.filesystem.rm_file(path)

    def _full(self, path: str) -> str:
        return f"{self._root}/{checked_path(path)}"

    @contextmanager
    def _client_errors_as_store_errors(self) -> Iterator[None]:
        """Let OSError through; make an UnreadableError of whatever else a filesystem's own client raises."""
        try:
            yield
        except (OSError, ImportError, ValueError, StoreError):
            raise
        except Exception as error:
            said = str(error).splitlines() or [type(error).__name__]
            raise UnreadableError(f"{self.url}: {said[0]}") from error


def _entry(path: str, about: dict[str, Any]) -> Entry:
    return Entry(path, int(about["size"] or 0), _stamp(about), _modified(about))


def _modified(about: dict[str, Any]) -> float:
    found = next((about[name] for name in ("LastModified", "mtime", "updated", "created") if about.get(name)), 0.0)
    if isinstance(found, datetime):
        return found.timestamp()
    return float(found) if isinstance(found, (int, float)) else datetime.fromisoformat(str(found)).timestamp()


def _stamp(about: dict[str, Any]) -> str:
    return str(about.get("ETag") or about.get("etag") or about.get("mtime") or about.get("created") or "")
