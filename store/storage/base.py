"""Where a store's files are, and what anything that holds them can do.

Every path is relative to the store, and one that the layout has: any other is refused before anything is touched. A
file appears whole under a name that was free, or not at all: that is all that committing rests on. Nothing follows a
link: what a store has lies in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

MOST_OF_A_RECORD = 16 << 20  # bytes; a commit record of 100 GB of data has some 13 MB


@dataclass(frozen=True)
class Entry:
    """A file as a listing shows it.

    - stamp: changes whenever the file is written anew, and stays where a store is copied with its times
    - modified: seconds since 1970 by the clock of whatever holds the store
    - strange: what it is instead of a file, such as a symbolic link; empty for a file
    """

    path: str
    bytes: int
    stamp: str
    modified: float = 0.0
    strange: str = ""


class Storage(ABC):
    """The files of one store. What cannot be done raises OSError, what is no path of a store StoreError."""

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
    def stat(self, path: str) -> Entry | None:
        """Return what a listing would show of a file now; None where there is none."""

    @abstractmethod
    def read(self, path: str, most: int = MOST_OF_A_RECORD) -> bytes:
        """Return a file's content.

        Raises FileNotFoundError where it is not there, StoreError where it has more than `most` bytes.
        """

    @abstractmethod
    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, fewer where the file is shorter."""

    def read_all(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the content of many files; raise FileNotFoundError where one is not there."""
        return {path: self.read(path) for path in paths}

    @abstractmethod
    def entries(self, folder: str = "") -> list[Entry]:
        """Return everything under a folder that is not a folder itself, by path; none where it does not exist."""

    def listing(self, folder: str = "") -> list[Entry]:
        """Return all files under a folder, by path; raise StoreError where anything there is not a file."""
        found = self.entries(folder)
        for entry in found:
            if entry.strange:
                raise not_a_file(f"{self.url}/{entry.path}", entry.strange)
        return found

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
    def move(self, path: str, to: str) -> None:
        """Give a file another, free name; nothing happens where there is no such file."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file; nothing happens where there is none."""

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """Yield a new local folder for files to `publish`; it is removed afterwards."""

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Return the folders of shards that are, or were when their process died, being written."""

    @abstractmethod
    def sweep(self) -> list[str]:
        """Remove the folders of `unfinished` whose process is gone; return them."""

    @abstractmethod
    def now(self) -> float:
        """Return the time, in seconds since 1970, by the clock that `Entry.modified` is told by."""


def not_a_file(where: str, what: str) -> StoreError:
    """Return the error for something in a store that no store has."""
    return StoreError(f"{where}: is {what}, and a store has none; put in its place what belongs there, or remove it")
