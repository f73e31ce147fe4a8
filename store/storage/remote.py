"""A store under a prefix of any filesystem that fsspec knows (`s3://bucket/prefix`)."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError
from moetrace.store.storage.base import Entry, Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with self._client_errors_as_store_errors():
            content: bytes = self.filesystem.cat_file(self._full(path))
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
        return {path: found[self._full(path)] for path in wanted}

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that name."""
        with self._client_errors_as_store_errors():
            return bool(self.filesystem.isfile(self._full(path)))

    def listing(self, folder: str = "") -> list[Entry]:
        """Return all files under a folder, by path."""
        with self._client_errors_as_store_errors():
            self.filesystem.invalidate_cache()
            found: dict[str, dict[str, Any]] = self.filesystem.find(self._full(folder), detail=True)
        cut = len(self._root) + 1
        entries = [Entry(path[cut:], int(about["size"]), _stamp(about)) for path, about in found.items()]
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
        with tempfile.TemporaryDirectory(prefix="moetrace-") as folder:
            yield Path(folder)

    def unfinished(self) -> list[str]:
        """Return nothing: shards are staged on the machine that writes them."""
        return []

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _client_errors_as_store_errors(self) -> Iterator[None]:
        """Let OSError through; make a StoreError of whatever else a filesystem's own client raises."""
        try:
            yield
        except (OSError, ImportError, ValueError, StoreError):
            raise
        except Exception as error:
            said = str(error).splitlines() or [type(error).__name__]
            raise StoreError(f"{self.url}: {said[0]}") from error


def _stamp(about: dict[str, Any]) -> str:
    return str(about.get("ETag") or about.get("etag") or about.get("mtime") or about.get("created") or "")
