"""Where the engine of a trace comes from: one of its own, or one that several traces share."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from moetrace.tracer.engine.engine import TracedEngine
from moetrace.tracer.engine.synthetic import SyntheticEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import ModelFacts

    Engine = TracedEngine | SyntheticEngine
    EngineOf = Callable[[ModelFacts, EngineSettings], AbstractContextManager[Engine]]


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
        yield self._engine

    def close(self) -> None:
        """Close the engine, where one was started."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
