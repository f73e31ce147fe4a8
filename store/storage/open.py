"""From the name of a place to its storage: a folder, or a URL of a remote filesystem."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.storage.local import LocalStorage
from moetrace.store.storage.remote import RemoteStorage

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage


def open_storage(place: str | Path) -> Storage:
    """Return the storage at a path or a URL; raise StoreError where its filesystem is unknown or cannot be reached."""
    text = str(place)
    if "://" in text and not text.startswith("file://"):
        return RemoteStorage(text)
    return LocalStorage(Path(text.removeprefix("file://")))
