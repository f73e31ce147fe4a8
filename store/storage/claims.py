"""Which process is doing which shard, so that two that trace the same run share the work instead of doubling it.

A claim is a small file; it saves work and proves nothing: that a shard is never doubled or lost rests on the commit
record alone, which only one process can create. A claim is void once its process is gone: at once where it ran on
this machine, elsewhere, and where its file is damaged, when that has not been renewed for `EXPIRY` by the clock of
whatever holds the store, which is nobody's own. It names the digest of the run record it is traced under, so that
processes that disagree learn it before they work.
"""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from moetrace.store.errors import RunMismatchError, StoreError
from moetrace.store.format import layout
from moetrace.store.format.record_schemas import ClaimSchema, check_record
from moetrace.store.format.sealed import read_sealed, sealed_text
from moetrace.store.storage.faults import FaultPoint, reach
from moetrace.store.storage.processes import machine, started, this_process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.store.storage.base import Storage

EXPIRY = 600.0  # seconds without renewal after which the claim of another machine's process is void
RENEWAL = 60.0


@dataclass(frozen=True)
class Claim:
    """A claim that a process may still be at work on; `run_sha256` and `who` are None where it is damaged."""

    path: str
    run_sha256: str | None
    who: str | None


class Claims:
    """The claims of one process on the shards of one run."""

    def __init__(self, storage: Storage, run: str, run_sha256: str) -> None:
        self._storage, self._run, self._run_sha256 = storage, run, run_sha256
        self._owner = {**this_process(), "id": uuid.uuid4().hex, "run_sha256": run_sha256}
        self._living = LivingClaims(storage)
        self._held: set[str] = set()
        self._taken_over: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, lang: str, shard: int) -> bool:
        """Claim a shard; return False where a living process has it.

        Raises RunMismatchError where a living process traces the run under another record.
        """
        path = layout.claim_path(self._run, lang, shard)
        if path in self._held:
            return True
        if self._renewer is None:
            for claim in self._living.of_run(self._run):
                self._require_same_run(claim)
        if not self._storage.create(path, self._content(), durable=False):
            left_behind, holder = self._living.look(path)
            if holder is not None:
                self._require_same_run(holder)
                return False
            self._storage.delete(path)
            if not self._storage.create(path, self._content(), durable=False):
                return False
            if left_behind:
                self._taken_over.add(path)
        with self._lock:
            self._held.add(path)
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="moetrace-claims", daemon=True)
                self._renewer.start()
        reach(FaultPoint.CLAIMED)
        return True

    def took_over(self, lang: str, shard: int) -> bool:
        """Tell whether the claim on a shard that is held was left behind by a process that died."""
        return layout.claim_path(self._run, lang, shard) in self._taken_over

    def release(self, lang: str, shard: int) -> None:
        """Give a claim back; nothing where it is not held."""
        path = layout.claim_path(self._run, lang, shard)
        self._taken_over.discard(path)
        with self._lock:
            if path not in self._held:
                return
            self._held.remove(path)
            self._storage.delete(path)

    def close(self) -> None:
        """Give all claims back."""
        self._closed.set()
        with self._lock:
            for path in self._held:
                self._storage.delete(path)
            self._held.clear()

    def _require_same_run(self, claim: Claim) -> None:
        if claim.run_sha256 not in {None, self._run_sha256}:
            raise RunMismatchError(
                f"{self._storage}: run '{self._run}' is being traced with another record by {claim.who}; pass --run "
                "with a new name, or trace as that process does"
            )

    def _content(self) -> bytes:
        return sealed_text({**self._owner, "renewed": time.time()}, indent=None).encode()

    def _renew(self) -> None:
        while not self._closed.wait(RENEWAL):
            with self._lock:
                for path in self._held:
                    try:
                        self._storage.replace(path, self._content())
                    except (OSError, StoreError):
                        continue  # the disk is full, the network away: the next renewal may come through


class LivingClaims:
    """Which claims of a store may still be somebody's."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def of_run(self, run: str = "") -> list[Claim]:
        """Return the living claims on shards of a run, or of all."""
        found = (self.at(path) for path in self.paths(run))
        return [claim for claim in found if claim is not None]

    def paths(self, run: str = "") -> list[str]:
        """Return the paths of all claims, living or not, on shards of a run, or of all."""
        folder = f"{layout.CLAIMS}/run={layout.checked_run(run)}" if run else layout.CLAIMS
        return [entry.path for entry in self._storage.listing(folder) if layout.place_of(entry.path)]

    def made_under(self, path: str, process: Mapping[str, Any]) -> str | None:
        """Return the digest of the run record of a process's claim; None where the claim is not its.

        process: what `this_process` returned there
        """
        try:
            claim = self._read(path)
        except FileNotFoundError:
            return None
        mine = claim is not None and all(claim[name] == process.get(name) for name in ("machine", "process", "started"))
        return claim["run_sha256"] if claim is not None and mine else None

    def at(self, path: str) -> Claim | None:
        """Return the claim of that path; None where it is gone, or its process is."""
        return self.look(path)[1]

    def look(self, path: str) -> tuple[bool, Claim | None]:
        """Tell whether there is a claim of that path, and return it; None where its process is gone."""
        try:
            claim = self._read(path)
        except FileNotFoundError:
            return False, None
        if claim is not None and claim["machine"] == machine():
            since = started(claim["process"])
            alive = since is not None and since == claim["started"]
        else:
            entry = self._storage.stat(path)
            alive = entry is not None and abs(time.time() + self._ahead - entry.modified) < EXPIRY
        if not alive:
            return True, None
        if claim is None:
            return True, Claim(path, None, None)
        who = f"process {claim['process']} of {claim['machine'].split(' ')[0]}"
        return True, Claim(path, claim["run_sha256"], who)

    def _read(self, path: str) -> dict[str, Any] | None:
        """Return what a claim says, None where it is damaged, or of a version that did not say it so."""
        try:
            claim = read_sealed(self._storage.read(path), path, required=True)
            check_record(ClaimSchema, claim, path)
        except StoreError:
            return None
        return claim

    @cached_property
    def _ahead(self) -> float:
        """Seconds that the store's clock is ahead of this process's."""
        return self._storage.now() - time.time()


def sweep_claims(storage: Storage) -> list[str]:
    """Remove the claims whose process is gone; return their paths."""
    living = LivingClaims(storage)
    gone = [path for path in living.paths() if living.at(path) is None]
    for path in gone:
        storage.delete(path)
    return gone


def living_claims(storage: Storage) -> list[str]:
    """Return the paths of the claims whose process may still be at work."""
    return [claim.path for claim in LivingClaims(storage).of_run()]
