"""Taking files out of a store without losing them: they move to a folder of `quarantine/`, with the reason."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from moetrace.store.errors import as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.sealed import sealed_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.store.storage.base import Storage


def move_to_quarantine(storage: Storage, reasons: Mapping[str, str]) -> str:
    """Move files to a new folder of `quarantine/`, each to its own path in it; return the folder's path.

    reasons: why, by path, in the order in which they are moved. They are written down first, in `reasons.json`; a file
    that is gone by then is passed over. Raises StoreError where the store cannot be written: what is moved is in the
    folder, what is not is where it was.
    """
    now = datetime.now(UTC)
    folder = f"{layout.QUARANTINE}/{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    said = {"created": now.isoformat(timespec="seconds"), "moved": dict(reasons)}
    with as_store_errors(storage, "written", "; what was moved is in quarantine/"):
        storage.create(f"{folder}/{layout.REASONS}", sealed_text(said).encode())
        for path in reasons:
            storage.move(path, f"{folder}/{path}")
    return folder
