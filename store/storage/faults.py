"""The steps of a commit at which a test can kill the process, to prove that nothing is lost or half done there.

`MOETRACE_FAULT=<name>` kills the process, as SIGKILL does, when it reaches that point; otherwise they cost nothing.
"""

from __future__ import annotations

import os
import signal
from enum import Enum


class FaultPoint(Enum):
    """A step of making a store or of committing a shard, in their order."""

    FORMAT_WRITTEN = "format-written"
    RUN_WRITTEN = "run-written"
    CLAIMED = "claimed"
    STAGED = "staged"
    SYNCED = "synced"
    PUBLISHED_FIRST = "published-first"
    PUBLISHED = "published"
    COMMITTED = "committed"
    RELEASED = "released"


_ARMED = os.environ.get("MOETRACE_FAULT")


def reach(point: FaultPoint) -> None:
    """Kill this process where `MOETRACE_FAULT` names the point."""
    if point.value == _ARMED:
        os.kill(os.getpid(), signal.SIGKILL)
