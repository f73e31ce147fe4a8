"""Making a store of an older format one that this version writes: its shards stay as they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from moetrace.store.errors import as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.schema import FORMAT_VERSION
from moetrace.store.read.catalog import read_format
from moetrace.store.storage.open import open_storage

if TYPE_CHECKING:
    from pathlib import Path


def upgrade(place: str | Path) -> int:
    """Let new shards be written in the newest format beside those of an older one; return the version it had.

    No data file changes: a shard's commit record says in which version it was written, and the store says which it is
    where it does not. Older versions of moetrace can then no longer read the store.

    Raises StoreError where there is no store, or it cannot be written.
    """
    storage = open_storage(place)
    found = read_format(storage)
    if found["version"] < FORMAT_VERSION:
        now = {"format": "moetrace-store", "version": FORMAT_VERSION, "upgraded_from": found["upgraded_from"]}
        with as_store_errors(storage, "written", "; nothing was changed"):
            storage.replace(layout.FORMAT, (json.dumps(now) + "\n").encode())
    return int(found["version"])
