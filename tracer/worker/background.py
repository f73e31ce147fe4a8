"""When the host's part of a capture is done: at once, or in a thread beside the engine. No torch, no vLLM."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


def never() -> bool:
    """Say that it is not enough."""
    return False


class Work(Protocol):
    """Does what it is given, in order, each before the next begins."""

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Do something, now or later; raises what earlier work raised."""

    def wait(self, enough: Callable[[], bool] = never) -> None:
        """Return once all that was given is done, or `enough` of it; raises what earlier work raised."""

    def close(self) -> None:
        """Finish; nothing can be given afterwards."""


class AtOnce:
    """On a CPU, whose cores the forward pass has while it runs."""

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Do it."""
        work(*arguments)

    def wait(self, enough: Callable[[], bool] = never) -> None:
        """Nothing is ever left."""

    def close(self) -> None:
        """Nothing is ever left."""


class InBackground:
    """Beside a GPU: one thread works while the engine launches the next step.

    begin: called in the thread before anything else
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="moetrace-assembly", initializer=begin)
        self._given: deque[Future[Any]] = deque()

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Let the thread do it after what it was given before."""
        while self._given and self._given[0].done():
            self._given.popleft().result()
        self._given.append(self._thread.submit(work, *arguments))

    def wait(self, enough: Callable[[], bool] = never) -> None:
        """Wait for the thread, for one piece of work after the other."""
        while self._given and not enough():
            self._given.popleft().result()

    def close(self) -> None:
        """Wait for the thread to end; what its work raised is of no interest any more."""
        self._thread.shutdown()
        self._given.clear()
