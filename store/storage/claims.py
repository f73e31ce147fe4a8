"""Which process is doing which shard, so that two that trace the same run share the work instead of doubling it.

A claim is a small file; it saves work and proves nothing: that a shard is never doubled or lost rests on the commit
record alone, which only one process can create. A claim is void once its process is gone: at once where it ran on
this machine, elsewhere when its file has not been renewed for `EXPIRY`.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.storage.faults import FaultPoint, reach

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage

EXPIRY = 600.0  # seconds without renewal after which the claim of another machine's process is void
RENEWAL = 60.0


class Claims:
    """The claims of one process on the shards of one run."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage, self._run = storage, run
        self._owner = {**_this_process(), "id": uuid.uuid4().hex}
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, lang: str, shard: int) -> bool:
        """Claim a shard; return False where a living process has it."""
        path = layout.claim_path(self._run, lang, shard)
        if path in self._held:
            return True
        if not self._storage.create(path, self._content(), durable=False):
            if is_alive(_read(self._storage, path)):
                return False
            self._storage.delete(path)
            if not self._storage.create(path, self._content(), durable=False):
                return False
        with self._lock:
            self._held.add(path)
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="moetrace-claims", daemon=True)
                self._renewer.start()
        reach(FaultPoint.CLAIMED)
        return True

    def release(self, lang: str, shard: int) -> None:
        """Give a claim back; nothing where it is not held."""
        path = layout.claim_path(self._run, lang, shard)
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

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "renewed": time.time()}).encode()

    def _renew(self) -> None:
        while not self._closed.wait(RENEWAL):
            with self._lock:
                for path in self._held:
                    try:
                        self._storage.replace(path, self._content())
                    except (OSError, StoreError):
                        continue  # the disk is full, the network away: the next renewal may come through


def is_alive(claim: dict[str, Any] | None) -> bool:
    """Tell whether the process that holds a claim may still be at work; None: the claim is gone or unreadable."""
    if claim is None:
        return False
    here = _this_process()
    if claim.get("machine") == here["machine"]:
        return claim.get("started") == _started(int(claim.get("process", 0)))
    return time.time() - float(claim.get("renewed", 0)) < EXPIRY


def living_claims(storage: Storage) -> list[str]:
    """Return the paths of the claims whose process may still be at work."""
    return [entry.path for entry in storage.listing(layout.CLAIMS) if is_alive(_read(storage, entry.path))]


def _read(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        claim = json.loads(storage.read(path))
    except (FileNotFoundError, ValueError):
        return None
    return claim if isinstance(claim, dict) else None


@cache
def _machine() -> str:
    """Return a name for what process numbers are unique in: this boot of this machine, in this container."""
    parts = [platform.node()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            path = Path(source)
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii").strip())
        except OSError:
            parts.append("?")
    return " ".join(parts)


def _this_process() -> dict[str, Any]:
    return {"machine": _machine(), "process": os.getpid(), "started": _started(os.getpid())}


def _started(process: int) -> str | None:
    """Return when a process of this machine started, so that a number used again is not taken for it; None: gone."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        return _started_without_proc(process)
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _started_without_proc(process: int) -> str | None:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
