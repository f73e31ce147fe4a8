"""Which shards of a run are under suspicion, because processes died or engines failed under them, and what is known.

A record is written by who holds the claim on its shard. Like a claim it proves nothing: where it is lost or damaged,
the search for a bad text begins anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.attempts_record import AttemptsRecord, Part
from moetrace.store.storage.claims import LivingClaims

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from moetrace.store.storage.base import Storage


class Attempts:
    """The records of attempts at the shards of one run."""

    def __init__(self, storage: Storage, run: str, run_sha256: str) -> None:
        self._storage, self._run, self._run_sha256 = storage, run, run_sha256
        self._touched: set[str] = set()

    def suspected(self) -> set[str]:
        """Return the keys of the shards of which there is a record, as one listing shows them."""
        with self._as_store_errors():
            listed = self._storage.listing(f"{layout.ATTEMPTS}/run={self._run}")
        return {layout.shard_key(*shard[1:]) for entry in listed if (shard := layout.shard_of(entry.path))}

    def take_up(self, lang: str, shard: int, texts: int, *, died: bool) -> AttemptsRecord:
        """Return what is known of a shard of so many texts, of which the caller holds the claim.

        `died`: whether the claim was one that a dead process left behind. Where a process died, that is in the record,
        and written.
        """
        found = self._read(lang, shard)
        if found is None or found.texts != texts:
            found = AttemptsRecord(self._run, lang, shard, self._run_sha256, 0, (Part(0, texts),))
        if died or found.trying is not None:
            found = found.after_death()
            self.note(found)
        return found

    def note(self, record: AttemptsRecord) -> None:
        """Write a record."""
        path = layout.attempts_path(record.run, record.lang, record.shard)
        self._touched.add(path)
        with self._as_store_errors():
            self._storage.replace(path, record.to_json().encode())

    def forget(self, lang: str, shard: int) -> None:
        """Remove the record of a shard that is committed, where it was read or written here."""
        path = layout.attempts_path(self._run, lang, shard)
        if path in self._touched:
            self._touched.remove(path)
            with self._as_store_errors():
                self._storage.delete(path)

    def sweep(self, committed: Collection[str]) -> None:
        """Remove the records of shards that are committed, by their keys: who did so may not have known of them."""
        with self._as_store_errors():
            for entry in self._storage.listing(f"{layout.ATTEMPTS}/run={self._run}"):
                shard = layout.shard_of(entry.path)
                if shard and layout.shard_key(*shard[1:]) in committed:
                    self._storage.delete(entry.path)

    def _read(self, lang: str, shard: int) -> AttemptsRecord | None:
        """Return a record; None where there is none, or none that can be used."""
        path = layout.attempts_path(self._run, lang, shard)
        try:
            with self._as_store_errors():
                if not self._storage.has(path):
                    return None
                self._touched.add(path)
                found = AttemptsRecord.from_json(self._storage.read(path), path)
        except StoreError as error:
            if isinstance(error.__cause__, OSError):
                raise  # it may be whole, and could not be read now
            return None
        mine = replace(found, run=self._run, lang=lang, shard=shard, run_sha256=self._run_sha256)
        return found if found == mine else None

    def _as_store_errors(self) -> AbstractContextManager[None]:
        return as_store_errors(self._storage, "written", "; what was committed is safe, mend it and go on")


def give_up_claims(
    storage: Storage, run: str, process: Mapping[str, Any], texts: Callable[[str, int], int] | None = None
) -> list[str]:
    """Remove the claims on shards of a run of a process that is known to be gone, wherever it ran; return their keys.

    - process: what `this_process` returned there
    - texts: how many texts a shard has, by language and number, where the process died of itself: that is noted of
      each shard that it had claimed; None where it was ended on purpose
    """
    living = LivingClaims(storage)
    found = []
    for path in living.paths(run):
        run_sha256, shard = living.made_under(path, process), layout.shard_of(path)
        if run_sha256 is None or shard is None:
            continue
        if texts is not None:
            Attempts(storage, run, run_sha256).take_up(*shard[1:], texts(*shard[1:]), died=True)
        storage.delete(path)
        found.append(layout.shard_key(*shard[1:]))
    return found
