"""The second step of a trace: the run record, checked against the one that the store has of a run of this name."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetrace.store.format.layout import FORMAT
from moetrace.store.format.run_record import made_here, make_run_record, with_engine_facts
from moetrace.store.format.weights import lossless_precision
from moetrace.store.read.reader import Store
from moetrace.tracer.engine.settings import engine_versions
from moetrace.tracer.model.record import model_record

if TYPE_CHECKING:
    from moetrace.store.format.records import RunRecord
    from moetrace.store.storage.base import Storage
    from moetrace.tracer.runs.engines import Engine
    from moetrace.tracer.runs.planning import PlannedTrace
    from moetrace.tracer.runs.settings import TraceSettings


def planned_record(run: str, planned: PlannedTrace) -> RunRecord:
    """Return the record of a run without what only its engine knows: MoE layers, dtype, grid of gate weights."""
    settings = planned.settings
    return make_run_record(
        run,
        model=model_record(planned.facts, planned.tokenizer),
        routing=asdict(planned.facts.rule),
        corpus=planned.plan.corpus_record(),
        settings={
            "shard_tokens": settings.shard_tokens,
            "limit": settings.limit,
            "on_long": settings.on_long,
            "tables": settings.tables(),
            "prompt": settings.prompt.record(),
            "generation": settings.generation_record(),
            **settings.filter_record(),
            **settings.steering_record(),
            "engine": settings.engine.record(),
            "versions": {} if settings.engine.synthetic else engine_versions(),
        },
        provenance=made_here(planned.facts.id, planned.source),
    )


def stored_record(storage: Storage, run: str) -> RunRecord | None:
    """Return the record that the store has of a run, None where it has none, or where there is no store yet."""
    return Store(storage).runs.get(run) if storage.has(FORMAT) else None


def resumed_record(record: RunRecord, stored: RunRecord, settings: TraceSettings) -> RunRecord:
    """Return a planned record with what an engine would add if it is as the stored run's was.

    A run that differs in anything else can so be refused, or be found finished, before an engine is started.
    """
    precision, dtype = settings.weight_precision, settings.engine.dtype
    return with_engine_facts(
        record,
        {"moe_layers": stored.moe_layers, "dtype": stored.model["dtype"] if dtype == "auto" else dtype},
        {name: stored.settings[name] for name in _grid("")} if precision == "auto" else _grid(precision),
    )


def traced_record(record: RunRecord, engine: Engine, precision: str) -> RunRecord:
    """Return a planned record with what the engine that traces the run knows.

    The grid that weights are rounded to is `precision`. `auto` is the bf16 grid where the weights of the engine's probe
    lie on it (the store then refuses any that do not), else the f16 grid. The probe is not steered: weights of a run
    that is are made in float32, and lie on no grid.
    """
    if precision == "auto":
        found = "f16" if record.settings.get("steering") else lossless_precision(engine.probe.weights)
        grid = _grid(found, exact=found == "bf16")
    else:
        grid = _grid(precision)
    return with_engine_facts(record, {"moe_layers": engine.moe_layers, "dtype": engine.dtype}, grid)


def _grid(precision: str, *, exact: bool = False) -> dict[str, Any]:
    return {"weight_precision": precision, "weight_precision_exact": exact}
