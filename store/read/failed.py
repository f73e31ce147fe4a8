"""Reading which texts were set aside: by a run's filters, or because they could not be traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.plan_record import FailedRecord

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage


def failed_records(storage: Storage, run: str = "") -> list[FailedRecord]:
    """Return what was set aside of each shard of a run, or of all runs, by run, language and shard.

    A shard need not be committed. Raises StoreError for a record that is damaged, or of another shard.
    """
    folder = f"{layout.FAILED}/run={layout.checked_run(run)}" if run else layout.FAILED
    with as_store_errors(storage, "read"):
        listed = sorted(entry.path for entry in storage.listing(folder) if layout.shard_of(entry.path))
        found = storage.read_all(listed)
    return [failed_record(path, found[path], f"{storage}: ") for path in listed]


def require_made_under(record: FailedRecord, run_sha256: str, place: str = "") -> None:
    """Raise StoreError where a record was made under another record of its run than that of this digest."""
    if record.run_sha256 != run_sha256:
        path = layout.failed_path(record.run, record.lang, record.shard)
        raise StoreError(f"{place}{path}: run_sha256: is of another record than that of run '{record.run}'")


def failed_record(path: str, content: bytes, place: str = "") -> FailedRecord:
    """Return the record that a file holds; raise StoreError where it is damaged, or of another shard."""
    record = FailedRecord.from_json(content, f"{place}{path}")
    if path != layout.failed_path(record.run, record.lang, record.shard):
        raise StoreError(f"{place}{path}: shard: is the record of {record.lang}/{record.shard} of run '{record.run}'")
    return record


def failed_texts(storage: Storage, run: str) -> int:
    """Return how many texts of a run could not be traced; raise as `failed_records` does."""
    return sum(text.kind == "failed" for record in failed_records(storage, run) for text in record.texts)
