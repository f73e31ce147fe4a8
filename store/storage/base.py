"""Where a store's files are, and what anything that holds them can do.

Every path is relative to the store. A file appears whole under a name that was free, or not at all: that is all that
committing rests on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path


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

    @property
    def location(self) -> str:
        """Return the absolute path or the URL, which other programs can open from anywhere."""
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
        """Remove a file; nothing happens where there is none."""

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """Yield a new local folder for files to `publish`; it is removed afterwards."""

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Return the folders of shards that are, or were when their process died, being written."""
