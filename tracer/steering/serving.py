"""Steering every engine of an environment: what the plugin does where MOETRACE_STEER names interventions."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import read_intervention
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.steering.attach import check_fits, check_names, entries_of
from moetrace.tracer.steering.requests import Interventions, UnknownInterventionError
from moetrace.tracer.worker import TAG

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine import EngineCoreRequest


def steering_options(config: VllmConfig, files: str) -> dict[str, Any]:
    """Return a worker's options for steering by files, named with commas between them.

    The first is the default of requests that name none, unless MOETRACE_STEER_DEFAULT says otherwise. Raises
    InterventionError for what is no intervention or is of another model.
    """
    facts = read_facts(str(config.model_config.model), config.model_config.revision)
    found = [read_intervention(file.strip()) for file in files.split(",") if file.strip()]
    if not found:
        raise MoetraceError(
            f"MOETRACE_STEER={files}: names no file; give files of interventions, with commas between them"
        )
    default = os.environ.get("MOETRACE_STEER_DEFAULT") or found[0].name
    check_names([one.name for one in found], default)
    for one in found:
        check_fits(one, facts)
    return {
        "rule": asdict(facts.rule),
        "interventions": [entries_of(one) for one in found if one.cells],
        "digests": {one.name: one.digest if one.cells else None for one in found},
        "default": default,
    }


def prepare_requests() -> None:
    """Have every request that is processed from now on carry its intervention, where its engine has some."""
    from vllm.exceptions import VLLMValidationError  # noqa: PLC0415  where there is an engine, vLLM is loaded
    from vllm.v1.engine.input_processor import InputProcessor  # noqa: PLC0415

    process_inputs = InputProcessor.process_inputs
    if getattr(process_inputs, TAG, False):
        return

    def process(self: Any, *args: Any, **kwargs: Any) -> EngineCoreRequest:
        request: EngineCoreRequest = process_inputs(self, *args, **kwargs)
        options = (self.vllm_config.additional_config or {}).get(TAG, {}).get("steering", {})
        if "digests" not in options:
            return request
        try:
            return Interventions(options["digests"], options["default"]).prepare(request)
        except UnknownInterventionError as error:
            raise VLLMValidationError(str(error)) from error  # which a server answers with 400

    setattr(process, TAG, True)
    InputProcessor.process_inputs = process
