"""Streams of a device on a machine without one: what is given to them happens at once, and events happen late."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any


class LateEvent:
    """An event that has happened only once somebody waited for it."""

    def __init__(self) -> None:
        self.waited = False

    def query(self) -> bool:
        return self.waited

    def synchronize(self) -> None:
        self.waited = True


class Streams:
    """What CudaStreams offers, on a machine without a GPU; it keeps the order of the calls."""

    pinned = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def event(self) -> LateEvent:
        return LateEvent()

    def record_main(self, _event: Any) -> None:
        self.calls.append("record main")

    def record_side(self, event: Any) -> None:
        event.waited = False
        self.calls.append("record side")

    def main_waits(self, _event: Any) -> None:
        self.calls.append("main waits")

    def side_waits(self, _event: Any) -> None:
        self.calls.append("side waits")

    def on_side(self) -> Any:
        return nullcontext()
