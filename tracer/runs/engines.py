"""Where the engine of a trace comes from: one of its own, or one that several traces share."""

from __future__ import annotations

import gc
import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from moetrace.store.errors import MoetraceError
from moetrace.tracer.engine.engine import TracedEngine
from moetrace.tracer.engine.failures import EngineFailedError
from moetrace.tracer.engine.synthetic import SyntheticEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import ModelFacts

    Engine = TracedEngine | SyntheticEngine
    EngineOf = Callable[[ModelFacts, EngineSettings], AbstractContextManager[Engine]]

log = logging.getLogger(__name__)


@contextmanager
def own_engine(facts: ModelFacts, settings: EngineSettings) -> Iterator[Engine]:
    """Start an engine, and close it at the end; raise MoetraceError where it does not start."""
    engine: Engine = (SyntheticEngine if settings.synthetic else TracedEngine)(facts, settings)
    try:
        yield engine
    finally:
        engine.close()


class SharedEngine:
    """An engine that is started for the first trace and given to all, which must be of one model and one setting."""

    def __init__(self) -> None:
        self._engine: TracedEngine | None = None

    @contextmanager
    def __call__(self, facts: ModelFacts, settings: EngineSettings) -> Iterator[TracedEngine]:
        """Return the engine, started where it is not; raise MoetraceError where it does not start."""
        if self._engine is None:
            self._engine = TracedEngine(facts, settings)
        if (self._engine.facts, self._engine.settings) != (facts, settings):
            raise ValueError("an engine is shared by traces of one model and one setting")
        try:
            yield self._engine
        except EngineFailedError:
            self.close()  # the next trace gets another
            raise

    def close(self) -> None:
        """Close the engine, where one was started."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class RestartedEngine:
    """An engine that is closed and started again when it fails. Used as a context.

    Who uses `engine` must not keep it, or what it raised: the memory of one that failed is free only when nobody holds
    it any more.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[Engine]]) -> None:
        """Take what starts an engine: a context that closes it, also when it ends with an EngineFailedError."""
        self._start = start
        self._context: AbstractContextManager[Engine] | None = None

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._context is not None:
            self._context.__exit__(*raised)  # type: ignore[arg-type]
            self._context = None

    def restart(self, why: str) -> None:
        """Close an engine that failed and start another; raise MoetraceError where none starts any more."""
        self._close_failed(why)
        gc.collect()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()  # does nothing where there is no GPU
        try:
            self._open()
        except MoetraceError as error:
            raise MoetraceError(
                f"the engine failed ({why}) and does not start again: {error}; what was committed is safe, the same "
                "command goes on when that is mended"
            ) from error

    def _open(self) -> None:
        context = self._start()
        self.engine = context.__enter__()
        self._context = context

    def _close_failed(self, why: str) -> None:
        context, self._context = self._context, None
        del self.engine
        if context is None:
            return
        failure = EngineFailedError(why)
        try:
            context.__exit__(EngineFailedError, failure, None)
        except Exception:
            log.debug("an engine that failed did not close as it should", exc_info=True)
