"""Which process of which machine it was, and whether it is still there."""

from __future__ import annotations

import hashlib
import os
import platform
import uuid
from functools import cache
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return what tells this process from any other: machine, process number, and when it started."""
    return {"machine": machine(), "process": os.getpid(), "started": started(os.getpid())}


@cache
def machine() -> str:
    """Return a name for what process numbers are unique in: this boot of this machine, in this container."""
    parts = [platform.node()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            path = Path(source)
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii").strip())
        except OSError:
            parts.append("?")
    return " ".join(parts)


def scratch_name() -> str:
    """Return a new name for a folder of unfinished files, which says whose they are."""
    process = os.getpid()
    return f"{_machine_digest()}-{process}-{started(process)}-{uuid.uuid4().hex}"


def scratch_is_gone(name: str) -> bool | None:
    """Tell whether the process whose folder has that name is gone; None where it is not of this machine."""
    parts = name.split("-")
    if len(parts) != 4 or parts[0] != _machine_digest() or not parts[1].isdecimal():
        return None
    return started(int(parts[1])) != parts[2]


def _machine_digest() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def started(process: int) -> str | None:
    """Return when a process of this machine started, so that a number used again is not taken for it; None: gone."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _started_without_proc(process)
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _started_without_proc(process: int) -> str | None:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return "running"
