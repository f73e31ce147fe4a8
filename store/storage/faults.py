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
    CLAIMED = "claimed"
    STAGED = "staged"
    SYNCED = "synced"
    RUN_WRITTEN = "run-written"
    PUBLISHED_FIRST = "published-first"
    PUBLISHED = "published"
    COMMITTED = "committed"
    RELEASED = "released"


_armed: str | None = None


def arm() -> None:
    """Read the environment: when this module is loaded, and again in a process forked with another environment."""
    global _armed  # noqa: PLW0603  it is the process that is armed
    _armed = os.environ.get("MOETRACE_FAULT")


def reach(point: FaultPoint) -> None:
    """Kill this process where it was armed to die at the point."""
    if point.value == _armed:
        os.kill(os.getpid(), signal.SIGKILL)


arm()
