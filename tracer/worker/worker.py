"""What moetrace is in one of vLLM's workers: a seam in its routers and its step, with a tap, with steering, or both.

vLLM calls `TracedWorker` by its name, and `call` for every `collective_rpc`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.worker import TAG, cpu_fixes
from moetrace.tracer.worker.modes import is_compiled, require_mode
from moetrace.tracer.worker.routers import RouterSeam
from moetrace.tracer.worker.rows import BatchHook
from moetrace.tracer.worker.steering import Steering
from moetrace.tracer.worker.tap import WorkerTap

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _Worker
else:
    from vllm.v1.worker.gpu_worker import Worker as _Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.v1.core.sched.output import SchedulerOutput

    from moetrace.tracer.worker.rows import Batch


class WorkerSeam:
    """Wraps a worker's routers and its `execute_model`; tells a tap and steering, where it has them, of each step."""

    def __init__(self, worker: Any) -> None:
        """Install on a worker whose model is loaded; raise MoetraceError where the engine's mode cannot be served."""
        require_mode(worker.vllm_config)
        self.tap: WorkerTap | None = None
        self._worker = worker
        self._routers = RouterSeam(worker.model_runner.get_model(), compiled=is_compiled(worker.vllm_config))
        self._hook = BatchHook(worker, self._before_forward)
        self._taps = self._steered = False  # in the step under way
        self._execute_model = worker.execute_model
        worker.execute_model = self._execute

    @property
    def steering(self) -> Steering | None:
        """Return the interventions of the worker, None where it has no steering."""
        return self._routers.steering

    def add_tap(self, options: dict[str, Any]) -> None:
        """Put a tap in, where there is none."""
        if self.tap is None:
            self.tap = WorkerTap(self._routers, self._worker, options)

    def add_steering(self, rule: dict[str, Any]) -> None:
        """Make the routers ready for interventions; rule: the fields of the model's `RoutingRule`.

        Raises MoetraceError where another code routes than vLLM's.
        """
        if self.steering is not None:
            return
        if self._routers.routed_outside:
            raise MoetraceError("vLLM runs this family by transformers' code, whose router cannot be steered")
        self._routers.steering = Steering(
            self._routers.layers,
            self._routers.num_experts,
            self._routers.top_k,
            RoutingRule(**rule),
            self._worker.vllm_config.scheduler_config.max_num_batched_tokens,
            self._worker.device,
            static=self._worker.device.type != "cpu",
        )

    def remove(self, *, tap: bool = False, steering: bool = False) -> bool:
        """Take the tap or steering out, and everything once neither is left; tell whether nothing is.

        Only where nothing was compiled with them.
        """
        if tap and self.tap is not None:
            self.tap.remove()
            self.tap = None
        if steering:
            self._routers.steering = None
        if self.tap is None and self.steering is None:
            del self._worker.execute_model  # the class's own method is back
            self._hook.remove()
            self._routers.remove()
            return True
        return False

    def _execute(self, scheduler_output: SchedulerOutput) -> Any:
        """Run one step; what a tap or steering wants of it is told before and after."""
        taps = self.tap is not None and self.tap.before_step(scheduler_output)
        steers = self.steering is not None and self._steers(self.steering, scheduler_output)
        self._taps, self._steered = taps, steers
        self._hook.begin(scheduler_output if taps or steers else None)
        output = self._execute_model(scheduler_output)
        if taps and self.tap is not None:
            self.tap.after_step()
        return output

    def _steers(self, steering: Steering, scheduler_output: SchedulerOutput) -> bool:
        """Tell steering of requests that have ended or begin; tell whether any row of the step may be steered."""
        for request in scheduler_output.finished_req_ids:
            steering.end(request)
        for new in scheduler_output.scheduled_new_reqs:
            steering.begin(new)
        if steering.running and scheduler_output.total_num_scheduled_tokens:
            return True
        steering.nothing()
        return False

    def _before_forward(self, batch: Batch) -> None:
        if self._taps and self.tap is not None:
            self.tap.before_forward(batch)
        if self._steered and self.steering is not None:
            self.steering.before_forward(batch.rows)


def call(worker: Any, command: str, *arguments: Any) -> Any:
    """Run a command: what `collective_rpc(TAG, (command, ...))` reaches on every worker.

    Commands are `install` and `uninstall` (of a tap), `install_steering` and `uninstall_steering`, the methods of
    `WorkerTap`, and, with `steering_` before them, those of `Steering`. Workers that repeat what another computes
    (tensor-parallel ranks after the first) have no tap and answer None to what concerns one.
    """
    if command in INSTALLERS:
        return INSTALLERS[command](worker, *arguments)
    seam: WorkerSeam | None = worker.__dict__.get("moetrace_seam")
    name = command.removeprefix("steering_")
    called = None if seam is None else seam.tap if name == command else seam.steering
    return None if called is None else getattr(called, name)(*arguments)


def install(worker: Any, options: dict[str, Any]) -> bool:
    """Put a tap on a worker whose model is loaded; tell whether there is one now."""
    from vllm.distributed.parallel_state import get_tp_group  # noqa: PLC0415  exists once workers are set up

    if get_tp_group().rank_in_group == 0:
        _add(worker, WorkerSeam.add_tap, options)
    seam = worker.__dict__.get("moetrace_seam")
    return seam is not None and seam.tap is not None


def install_steering(worker: Any, rule: dict[str, Any]) -> bool:
    """Make a worker whose model is loaded ready for interventions; every worker is, also those that have no tap."""
    _add(worker, WorkerSeam.add_steering, rule)
    return True


def uninstall(worker: Any) -> None:
    """Take a worker's tap off."""
    _remove(worker, tap=True)


def uninstall_steering(worker: Any) -> None:
    """Take a worker's steering out."""
    _remove(worker, steering=True)


INSTALLERS: dict[str, Any] = {
    "install": install,
    "uninstall": uninstall,
    "install_steering": install_steering,
    "uninstall_steering": uninstall_steering,
}


def _add(worker: Any, add: Callable[[WorkerSeam, dict[str, Any]], None], options: dict[str, Any]) -> None:
    """Add something to a worker's seam, which is made where there is none; where that fails, nothing is left."""
    if "moetrace_seam" not in worker.__dict__:
        worker.moetrace_seam = WorkerSeam(worker)
    try:
        add(worker.moetrace_seam, options)
    except BaseException:
        _remove(worker)
        raise


def _remove(worker: Any, **what: bool) -> None:
    seam = worker.__dict__.get("moetrace_seam")
    if seam is not None and seam.remove(**what):
        del worker.moetrace_seam


class TracedWorker(_Worker):  # type: ignore[misc]
    """vLLM's worker with a seam in every router: installed after the weights load, before warm-up and compilation."""

    moetrace = call

    def load_model(self, **kwargs: Any) -> None:
        """Load the model and install the tap."""
        super().load_model(**kwargs)
        if self.device.type == "cpu":
            cpu_fixes.make_stage_inputs(self.model_runner)
            cpu_fixes.set_right(self.model_runner.get_model())
        options = self.vllm_config.additional_config[TAG]
        if "scoring" in options:
            install(self, options)
        if "steering" in options:
            install_steering(self, options["steering"]["rule"])
            for intervention in options["steering"].get("interventions", ()):
                call(self, "steering_load", *intervention)

    def shutdown(self) -> None:
        """Write what is still in memory before the worker goes."""
        seam = self.__dict__.get("moetrace_seam")
        if seam is not None and seam.tap is not None:
            seam.tap.stop_recording()
        super().shutdown()
