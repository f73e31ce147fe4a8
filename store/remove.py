"""Taking a run, or a language of one, out of a store; its files move to `quarantine/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, UnknownNameError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.read.store_format import read_format
from moetrace.store.storage.claims import LivingClaims
from moetrace.store.write.quarantine import move_to_quarantine

if TYPE_CHECKING:
    from moetrace.store.storage.base import Entry, Storage


@dataclass(frozen=True)
class Removal:
    """What is to be taken out: the files in the order in which they go, commit records first."""

    what: str
    entries: tuple[Entry, ...]

    @property
    def shards(self) -> int:
        """Return how many finished shards go."""
        places = (layout.place_of(entry.path) for entry in self.entries)
        return sum(1 for place in places if place and place.kind == layout.COMMITS and place.shard is not None)

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(entry.bytes for entry in self.entries)


def plan_removal(storage: Storage, run: str, lang: str | None = None) -> Removal:
    """Return what `remove` takes out: everything of a run, or of a language of it.

    Works on a run whose records are damaged, too. Raises UnknownNameError for a run or language that the store has no
    file of, StoreError where there is no store, or a living process is tracing what is to go.
    """
    read_format(storage)
    with as_store_errors(storage, "read"):
        found = [(place, entry) for entry in storage.entries() if (place := layout.place_of(entry.path)) and place.run]
        claims = LivingClaims(storage).of_run(run) if any(place.run == run for place, _ in found) else []
    mine = [(place, entry) for place, entry in found if place.run == run and not entry.strange]
    if not mine:
        raise UnknownNameError.among("run", run, {str(place.run) for place, _ in found}, storage.url)
    if lang is not None:
        languages = {place.lang for place, _ in mine if place.lang is not None}
        if lang not in languages:
            raise UnknownNameError.among("language", lang, languages, f"run '{run}'")
        mine = [(place, entry) for place, entry in mine if place.lang == lang]
    for claim in claims:
        place = layout.place_of(claim.path)
        if lang is None or (place and place.lang == lang):
            raise StoreError(
                f"{storage}: {claim.path}: is being traced by {claim.who or 'another process'}; stop it first"
            )
    # The commit records first: what lacks one is seen by nobody. The run record last: shards without one are an error.
    order = {layout.COMMITS: 0, layout.RUNS: 2}
    mine.sort(key=lambda item: (order.get(item[0].kind, 1), item[1].path))
    return Removal(f"run '{run}'" if lang is None else f"{lang} of run '{run}'", tuple(entry for _, entry in mine))


def remove(storage: Storage, removal: Removal, *, force: bool = False) -> str:
    """Move the files of a removal to a folder of `quarantine/` and return its path; `force` deletes them instead.

    Raises StoreError where the store cannot be written; what has gone by then is in quarantine/, unless forced.
    """
    paths = [entry.path for entry in removal.entries]
    if not force:
        return move_to_quarantine(storage, dict.fromkeys(paths, f"{removal.what} was removed"))
    with as_store_errors(storage, "written", "; some files are gone, try again"):
        for path in paths:
            storage.delete(path)
    return ""
