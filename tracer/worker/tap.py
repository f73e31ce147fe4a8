"""The tap of one of vLLM's workers: routers and row map on one side, a sink for each step's rows on the other."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.model.replay import RoutingEvidence, check_routing
from moetrace.tracer.plan.token_filter import TokenFilter
from moetrace.tracer.worker.assembly import CapturedShard, PlannedShards
from moetrace.tracer.worker.background import AtOnce, InBackground
from moetrace.tracer.worker.memory import tap_memory
from moetrace.tracer.worker.recorder import RequestRecorder
from moetrace.tracer.worker.router_tap import RouterTap
from moetrace.tracer.worker.transfer import make_transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.v1.core.sched.output import SchedulerOutput

    from moetrace.tracer.worker.background import Work
    from moetrace.tracer.worker.routers import RouterSeam
    from moetrace.tracer.worker.rows import Batch
    from moetrace.tracer.worker.steps import Sink

log = logging.getLogger("vllm.moetrace")


class WorkerTap:
    """The tap of one worker: told of each step before and after it, hands its rows to a sink.

    Rows go into the shards of a plan, or, between `start_recording` and `stop_recording`, into a run of a store.
    """

    def __init__(self, seam: RouterSeam, worker: Any, options: dict[str, Any]) -> None:
        """Put the tap into a worker's routers.

        options: `scoring` and `profiles`; to record requests from the start, `recording`: `RecordingSettings`' fields.
        """
        self._profiles = bool(options["profiles"])
        self._recording: dict[str, Any] | None = options.get("recording")
        self._seam = seam
        limits = worker.vllm_config.scheduler_config
        tokens, requests = limits.max_num_batched_tokens, limits.max_num_seqs
        try:
            self.tap = RouterTap(seam, tokens, requests, worker.device, options)
            self._transfer = make_transfer(self.tap.buffers)
        except torch.OutOfMemoryError as error:
            raise MoetraceError(self._needs(tokens, requests)) from error
        self._work = _work_beside(worker.device)
        seam.tap = self.tap
        self._batch: Batch | None = None
        self._wanted: set[str] = set()  # requests under way whose rows the sink wants
        self._failure: str | None = None
        self._evidence: list[Any] | None = None
        self._probing = False
        self.reset()

    def _needs(self, tokens: int, requests: int) -> str:
        """Say what a device without room for the tap lacks."""
        shape = len(self._seam.layers), self._seam.num_experts, self._seam.top_k, tokens
        needed = tap_memory(*shape, requests if self._profiles else None, static=True).device
        return (
            f"no room on the device for the tap, which takes {needed / 1e6:.0f} MB for steps of {tokens} tokens: lower "
            "gpu_memory_utilization or max_num_batched_tokens, or trace without profiles"
        )

    @property
    def _sink(self) -> Sink:
        return self._recorder or self._planned

    def before_step(self, scheduler_output: SchedulerOutput) -> bool:
        """Learn which requests a step has; tell whether any of its rows is wanted."""
        self._keeping(self._register, scheduler_output)
        wanted = self._wanted and scheduler_output.total_num_scheduled_tokens and self._failure is None
        self._seam.recording, self._batch = bool(wanted), None
        self.tap.probing = self._probing
        if self.tap.buffers.profiles is not None:
            self.tap.buffers.profiles.idle()
        return bool(wanted)

    def before_forward(self, batch: Batch) -> None:
        """Learn whose the rows of the forward pass are that begins now, and make the buffers ready for it."""
        self._batch = batch
        self._keeping(self._begin, batch)

    def after_step(self) -> None:
        """Put the rows of the step that was just launched where they belong."""
        self._keeping(self._collect)

    def _keeping(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do a part of the capture unless it has failed; keep why it fails.

        That is handed over with the next `take`: an exception in a step would kill the engine without its words.
        """
        if self._failure is not None:
            return
        try:
            work(*arguments)
        except MoetraceError as error:
            self._failure = str(error)
            if self._recorder:
                log.error("moetrace stopped recording: %s", error)  # noqa: TRY400  the words are enough

    def _register(self, scheduler_output: SchedulerOutput) -> None:
        """Learn which requests have ended, which begin, and whose rows are wanted."""
        for request in scheduler_output.finished_req_ids:
            if request in self._wanted:
                self._wanted.remove(request)
                self._do(self._sink.end, request)  # after the steps that were given before
        for new in scheduler_output.scheduled_new_reqs:
            if new.req_id not in self._wanted and self._sink.begin(new):
                self._wanted.add(new.req_id)

    def _begin(self, batch: Batch) -> None:
        """Make the buffers ready for a pass."""
        kept = self._sink.kept(batch.rows) if self._profiles else None
        self._transfer.before_forward(batch.rows, batch.token_ids, kept)

    def _collect(self) -> None:
        """Take over the rows of the step that was just launched."""
        if self._batch is None:
            raise CaptureError("the engine ran a step past the hook that says whose its rows are; nothing was captured")
        self._work.wait(self._transfer.has_room)
        self._transfer.send()
        self._work.do(self._receive)
        if self._probing:
            self._evidence = self.tap.evidence(int(self._batch.rows.counts.sum()))
            self._probing = False
            self._check_recorded()

    def _do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Let something be done on the host, in order with the steps."""
        self._work.do(self._keeping, work, *arguments)

    def _receive(self) -> None:
        for rows, step in self._transfer.receive():
            if self.tap.layers:
                self._keeping(self._sink.add, step, rows)

    def _check_recorded(self) -> None:
        """Check how the first step of a recording was routed; planned traces are checked by who plans them."""
        if self._recording and self._evidence:
            rule = RoutingRule(**self._recording["record"]["routing"])
            check_routing(rule, [RoutingEvidence(*entry) for entry in self._evidence])

    def layout(self) -> dict[str, Any]:
        """Return what was tapped: MoE layers, experts, top-k."""
        return {"moe_layers": self.tap.layers, "num_experts": self.tap.num_experts, "top_k": self.tap.top_k}

    def reset(self) -> None:
        """Forget every open shard, and why the capture failed; begin a recording where one is asked for."""
        self.settle()
        self._wanted.clear()
        self._failure = None
        self._probing = bool(self._recording and self._recording["self_check"])
        self._planned = PlannedShards(self.tap.layers, self.tap.num_experts, self.tap.top_k, profiles=self._profiles)
        self._recorder = RequestRecorder(self.layout(), self._recording) if self._recording else None

    def probe(self) -> None:
        """Keep the router logits of the next step."""
        self._probing, self._evidence = True, None

    def evidence(self) -> list[Any] | None:
        """Return what the probed step was routed by (`RouterTap.evidence`), None where there was none."""
        return self._evidence

    def open(self, key: str, lengths: list[int], new_tokens: int, token_filter: dict[str, Any] | None) -> None:
        """Announce a shard before its requests are added; `token_filter`: the fields of a `TokenFilter`."""
        self._planned.open(key, lengths, new_tokens, TokenFilter(**token_filter) if token_filter else None)

    def finish(self, ends: list[tuple[str, int, int]]) -> None:
        """Say of texts with generated tokens, whose last step has run, where they end: (shard, text, positions)."""
        self._do(self._planned.finish, ends)

    def settle(self) -> None:
        """Wait until every step that has run is in its shard."""
        self._work.wait()

    def take(self) -> tuple[str | None, list[CapturedShard]]:
        """Return why the capture failed (None where it did not) and the shards completed since the last call."""
        return self._failure, self._planned.take()

    def start_recording(self, recording: dict[str, Any]) -> None:
        """Record every request from now on into a store; `recording` are the fields of `RecordingSettings`."""
        self._recording = recording
        self.reset()

    def stop_recording(self) -> dict[str, Any] | None:
        """Write what is left and return what was recorded, and under `failure` why anything was lost.

        None where nothing was being recorded.
        """
        if self._recorder is None:
            return None
        self.settle()
        summary = self._recorder.close()
        failure = self._failure
        self._recording = None
        self.reset()
        return {**summary, "failure": failure or summary["failure"]}

    def remove(self) -> None:
        """Take the tap out of the routers; only where nothing was compiled with it."""
        self._seam.tap = None
        self._work.close()


def _work_beside(device: torch.device) -> Work:
    """Return how the host's part is done beside a model on a device."""
    if device.type == "cpu":
        return AtOnce()
    # A thread that chose no device would open a context on the first one.
    return InBackground(begin=partial(torch.cuda.set_device, device))
