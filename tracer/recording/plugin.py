"""The vLLM plugin: what makes any vLLM of this environment traceable, and what records and steers `vllm serve`.

vLLM calls `register` in every process that it starts. It gives workers the command `moetrace`, which does nothing until
it is called. With MOETRACE_STORE set, engines are made with a tap and record every request; with MOETRACE_STEER set,
requests are steered:

    MOETRACE_STORE=store MOETRACE_LANG=swh_Latn vllm serve MODEL
    MOETRACE_STEER=x.json vllm serve MODEL
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moetrace.tracer.worker import TAG, TRACED_WORKER

log = logging.getLogger("vllm.moetrace")

SHUTDOWN_SECONDS = 30


def register() -> None:
    """Entry point `vllm.general_plugins`; may be called several times in a process."""
    from vllm.v1.worker.worker_base import WorkerBase  # noqa: PLC0415  vLLM itself calls this

    if TAG not in vars(WorkerBase):
        setattr(WorkerBase, TAG, _call)
    if os.environ.get("MOETRACE_STORE") or os.environ.get("MOETRACE_STEER"):
        _seam_engines()
    if os.environ.get("MOETRACE_STEER"):
        from moetrace.tracer.steering.serving import prepare_requests  # noqa: PLC0415

        prepare_requests()


def _call(worker: Any, command: str, *arguments: Any) -> Any:
    """Give a command to the worker's tap; nothing of moetrace is loaded before the first."""
    from moetrace.tracer.worker.worker import call  # noqa: PLC0415

    return call(worker, command, *arguments)


def _seam_engines() -> None:
    """Let every engine configuration that is made from now on ask for a worker that records, steers, or does both."""
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415

    make_config = EngineArgs.create_engine_config
    if getattr(make_config, TAG, False):
        return

    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        from moetrace.tracer.worker.contacts import require_contacts  # noqa: PLC0415

        if self.worker_cls == TRACED_WORKER:  # an engine of moetrace's own, or one that says itself what it does
            return make_config(self, *args, **kwargs)
        require_contacts()
        store = os.environ.get("MOETRACE_STORE")
        if store and self.enable_prefix_caching is not False:
            log.warning("moetrace: prefix caching is off while requests are recorded")
            self.enable_prefix_caching = False
        if store:
            # Without it the server kills its workers at once when it is told to stop, and what they hold is lost.
            self.shutdown_timeout = self.shutdown_timeout or SHUTDOWN_SECONDS
        self.worker_cls = TRACED_WORKER
        config = make_config(self, *args, **kwargs)
        options: dict[str, Any] = {}
        if os.environ.get("MOETRACE_STEER"):
            from moetrace.tracer.steering.serving import steering_options  # noqa: PLC0415

            options["steering"] = steering_options(config, os.environ["MOETRACE_STEER"])
        if store:
            options |= _recording_options(config, store, options.get("steering"))
        config.additional_config = {**(config.additional_config or {}), TAG: options}
        return config

    setattr(create_engine_config, TAG, True)
    EngineArgs.create_engine_config = create_engine_config


def _recording_options(config: Any, store: str, steering: dict[str, Any] | None) -> dict[str, Any]:
    """Return a worker's options for a tap that records every request into a run."""
    from moetrace.store.format.layout import SHARD_TOKENS  # noqa: PLC0415
    from moetrace.tracer.recording.attach import requests_record  # noqa: PLC0415
    from moetrace.tracer.worker.recorder import UNDETERMINED, RecordingSettings  # noqa: PLC0415

    profiles = os.environ.get("MOETRACE_PROFILES", "1") != "0"
    store = store if "://" in store else str(Path(store).absolute())
    shard_tokens = int(_number("MOETRACE_SHARD_TOKENS", SHARD_TOKENS))
    precision = os.environ.get("MOETRACE_WEIGHT_PRECISION", "f16")
    self_check = os.environ.get("MOETRACE_SELF_CHECK", "1") != "0"
    record = requests_record(
        config,
        os.environ.get("MOETRACE_RUN"),
        store,
        profiles=profiles,
        weight_precision=precision,
        shard_tokens=shard_tokens,
        self_check=self_check,
        steering=steering and {"interventions": steering["digests"], "default": steering["default"]},
    )
    recording = RecordingSettings(
        store,
        asdict(record),
        os.environ.get("MOETRACE_LANG", UNDETERMINED),
        shard_tokens,
        _number("MOETRACE_FLUSH_SECONDS", 60),
        self_check,
    )
    log.warning("moetrace: recording run %s into %s", record.run, store)
    return {"scoring": record.routing["scoring"], "profiles": profiles, "recording": asdict(recording)}


def _number(name: str, default: float) -> float:
    """Return a number of the environment; raise MoetraceError where it is not one above 0."""
    from moetrace.store.errors import MoetraceError  # noqa: PLC0415  nothing of moetrace is loaded before it is needed

    said = os.environ.get(name, "")
    try:
        number = float(said or default)
    except ValueError:
        number = 0
    if number <= 0:
        raise MoetraceError(f"{name}={said}: must be a number above 0")
    return number
