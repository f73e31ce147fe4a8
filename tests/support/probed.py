"""A step of an engine's own work, compared with the model's rule."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from moetrace.tracer.engine.commands import tell_workers
from moetrace.tracer.model.replay import RoutingEvidence, check_routing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.plan.shards import PlannedShard


def trace_and_replay(
    engine: TracedEngine, planned: Iterable[PlannedShard], step: int, generation: Generation | None = None
) -> tuple[list[RoutingEvidence], list[Shard]]:
    """Trace some shards, and replay the routing of the step of that number; return what that saw, and the shards.

    Raises CaptureError where an expert or a weight does not follow from the router's logits.
    """
    core, run, number = engine.llm.llm_engine, engine.llm.llm_engine.step, count()

    def stepping() -> Any:
        if next(number) == step:
            tell_workers(engine.llm, "probe")
        return run()

    core.step = stepping
    try:
        shards = list(engine.trace(planned, generation=generation))
    finally:
        del core.step
    found = [RoutingEvidence(*entry) for stage in tell_workers(engine.llm, "evidence") for entry in stage]
    check_routing(engine.facts.rule, found)
    return found, shards
