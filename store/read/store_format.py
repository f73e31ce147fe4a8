"""store.json: whether a folder is a store, and of which format version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, UnreadableError
from moetrace.store.format import layout
from moetrace.store.format.record_schemas import FormatSchema, check_record
from moetrace.store.format.schema import FORMAT_VERSION
from moetrace.store.format.sealed import read_sealed, sealed_text

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage

SEALED_SINCE = 4  # format version in which every record carries a checksum


@dataclass(frozen=True)
class StoreFormat:
    """What store.json says; `oldest` is the version of shards whose commit record names none."""

    version: int
    oldest: int

    @property
    def sealed(self) -> bool:
        """Tell whether every record carries a checksum."""
        return self.version >= SEALED_SINCE


def format_text() -> str:
    """Return the store.json that this version writes."""
    return sealed_text({"format": "moetrace-store", "version": FORMAT_VERSION}, indent=None)


def read_format(storage: Storage) -> StoreFormat:
    """Return what store.json says; raise StoreError saying why the store cannot be read."""
    try:
        content = storage.read(layout.FORMAT)
    except (FileNotFoundError, NotADirectoryError) as error:
        if storage.exists():
            raise StoreError(f"{storage}: not a moetrace store (no store.json)") from error
        raise StoreError(f"{storage}: no such store; make one with `moetrace trace` or `moetrace demo`") from error
    except OSError as error:
        raise UnreadableError(f"{storage}: cannot be read ({error.strerror or error})") from error
    where = f"{storage}: {layout.FORMAT}"
    found = read_sealed(content, where, required=False)
    version = found.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StoreError(
            f"{storage}: format version {version}, this moetrace reads up to {FORMAT_VERSION}; upgrade moetrace"
        )
    check_record(FormatSchema, found, where)
    known = StoreFormat(found["version"], found.get("upgraded_from") or found["version"])
    read_sealed(content, where, required=known.sealed)
    return known
