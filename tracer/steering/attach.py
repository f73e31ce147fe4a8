"""Steering an engine that somebody else made: `with steered(llm, "x.json"):`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import Intervention, check_intervention_fits, read_intervention
from moetrace.tracer.engine.commands import tell_workers
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.steering.requests import NONE, Interventions, prepared
from moetrace.tracer.worker import TAG
from moetrace.tracer.worker.contacts import require_contacts
from moetrace.tracer.worker.modes import is_compiled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vllm import LLM

    from moetrace.tracer.model.facts import ModelFacts


@contextmanager
def steered(llm: LLM, *interventions: str | Path | Intervention, default: str | None = None) -> Iterator[Interventions]:
    """Steer the requests that `llm` runs inside the block.

    interventions: files, or what `read_intervention` returned. A request is steered by what its
    `SamplingParams(extra_args={"moetrace_steer": NAME})` names, or not at all by "none"; one that names nothing by
    `default`, which is the first where none is given, and may be changed between calls (`.default = NAME`).

    An engine that compiles or captures graphs must have been made with
    `LLM(model, **tap_arguments(model, steering=True))`: steering that comes later would change nothing, and is refused.

    Raises InterventionError for what is no intervention or is of another model, MoetraceError where the engine cannot
    be steered.
    """
    require_contacts()
    config = llm.llm_engine.vllm_config
    facts = read_facts(str(config.model_config.model), config.model_config.revision)
    found = [one if isinstance(one, Intervention) else read_intervention(one) for one in interventions]
    known = {one.name: one for one in found}
    check_names([one.name for one in found], default)
    for one in found:
        check_fits(one, facts)
    mine = _install(llm, facts)
    loaded = [one.digest for one in found if one.cells]
    processor = llm.llm_engine.input_processor
    try:
        for one in found:
            load(llm, one)
        digests = {name: one.digest if one.cells else None for name, one in known.items()}
        requests = Interventions(digests, default or (found[0].name if found else None))
        processor.process_inputs = prepared(processor.process_inputs, requests)
        try:
            yield requests
        finally:
            del processor.process_inputs  # the class's own method is back
    finally:
        if mine:
            tell_workers(llm, "uninstall_steering")
        else:
            for digest in loaded:
                tell_workers(llm, "steering_drop", digest)


def check_names(names: Sequence[str], default: str | None) -> None:
    """Raise MoetraceError where two interventions have one name, one has the name of none, or the default is none."""
    for name in names:
        if names.count(name) > 1:
            raise MoetraceError(f"two interventions are called {name}; rename one")
        if name == NONE:
            raise MoetraceError(f"no intervention can be called {NONE}: requests say it to be left alone")
    if default is not None and default not in {*names, NONE}:
        raise MoetraceError(f"default {default}: there is no intervention of this name, only {', '.join(names)}")


def check_fits(intervention: Intervention, facts: ModelFacts) -> None:
    """Raise InterventionError where a model cannot be steered by an intervention."""
    check_intervention_fits(
        intervention,
        config_sha256=facts.config_sha256,
        moe_layers=facts.moe_layers,
        num_experts=facts.num_experts,
        top_k=facts.top_k,
        groups=(facts.rule.groups, facts.rule.groups_kept),
    )


def load(llm: LLM, intervention: Intervention) -> None:
    """Give an intervention to every worker, which can steer; nothing happens where it does nothing."""
    if intervention.cells:
        tell_workers(llm, "steering_load", *entries_of(intervention))


def entries_of(intervention: Intervention) -> tuple[Any, ...]:
    """Return the arguments of `Steering.load`, as they travel to a worker."""
    parts = (intervention.soft, intervention.scale, intervention.forced)
    entries = [[[layer, expert, value] for (layer, expert), value in part.items()] for part in parts]
    return intervention.digest, intervention.scope, *entries


def _install(llm: LLM, facts: ModelFacts) -> bool:
    """Make sure that the workers can steer; tell whether that was done now."""
    config = llm.llm_engine.vllm_config
    options = (config.additional_config or {}).get(TAG, {}).get("steering")
    if options is not None:
        if "digests" in options:
            raise MoetraceError("this engine's requests are steered by what MOETRACE_STEER names; unset it")
        return False
    if is_compiled(config):
        raise MoetraceError(
            "this engine is compiled, steering that comes now would change nothing: make it with enforce_eager=True, "
            "or as LLM(model, **moetrace.tap_arguments(model, steering=True))"
        )
    tell_workers(llm, "install_steering", asdict(facts.rule))
    return True
