"""Tracing with several workers, here or on a cluster: Ray starts, places and restarts them, the store schedules.

Workers share the shards out among themselves by the store's claims and write straight to it. The driver only watches:
where it dies, the same command again goes on. Where no Ray is wanted, the same command on many machines does the same
work by the claims alone.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.store.storage.open import open_storage
from moetrace.tracer.runs.cluster_actors import Planner, Worker
from moetrace.tracer.runs.prepare import default_run
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.settings import TraceSettings
from moetrace.tracer.runs.shards import Written
from moetrace.tracer.runs.trace import TraceResult
from moetrace.tracer.runs.workers import RAY, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.tracer.runs.cluster_actors import Ending, Outline, WorkerState

LOOK = 0.5  # seconds between two looks at the workers
DEATHS = 20  # of workers, without a shard committed between them, that end a job
ANSWER = 10.0  # seconds that a cluster has to answer
LOCKED = "; where the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
LAST_WORDS = 10.0  # seconds that the other workers have to end once one has found nothing left to do
OBJECT_STORE = 256 << 20  # bytes; all that goes through it is the tokens of shards under way


def trace_with_workers(
    model: str,
    corpus: str,
    store: str | Path,
    workers: Workers,
    *,
    run: str | None = None,
    revision: str | None = None,
    settings: TraceSettings | None = None,
    progress: TraceProgress | None = None,
) -> TraceResult:
    """Trace as `trace` does, with workers that each have an engine of their own.

    Paths of model, corpus and store must mean the same on every machine of the cluster; the corpus is read by one.
    A worker that dies is started again, and its shards are anybody's at once. Raises MoetraceError as `trace` does,
    where Ray is not installed, has no such cluster or too little room, where no worker is left that could trace, and
    where workers die again and again without finishing a shard.
    """
    workers.check()
    settings, progress = settings or TraceSettings(), progress or TraceProgress()
    job = {
        "run": run or default_run(model, corpus, synthetic=settings.engine.synthetic),
        "revision": revision,
        "settings": settings,
    }
    started = monotonic()
    with _ray(workers) as ray:
        planner = _planner(ray, workers)
        progress.stage(f"tokenising {corpus} (in one process of the cluster)")
        with _our_errors(ray):
            outline: Outline = ray.get(
                planner.prepare.remote(_absolute(model), _absolute(corpus), open_storage(store).location, **job)
            )
        progress.planned(outline.summary, outline.skipped_tokens)
        written = Written()
        if outline.todo:
            count = min(workers.count or _room(ray, workers, settings), outline.todo)
            progress.stage(f"starting {count} workers")
            written = _Crew(ray, planner, workers, settings, count, progress).work()
        with _our_errors(ray):
            ending: Ending = ray.get(planner.ending.remote())
        if ending.said:
            progress.stage(ending.said)
        if ending.missing:
            raise MoetraceError(f"{store}: {ending.missing} shards are not traced; give the same command again")
    return TraceResult(
        outline.run,
        outline.summary,
        written.shards,
        written.tokens,
        outline.summary.shards - written.shards,
        monotonic() - started,
        written.set_aside,
        ending.failed,
        ending.failed_before,
    )


@dataclass
class _Crew:
    """The workers of one job: each is started again when it dies, none that ended with an error of ours."""

    ray: Any
    planner: Any
    workers: Workers
    settings: TraceSettings
    count: int
    progress: TraceProgress
    _running: dict[Any, tuple[int, Any]] = field(default_factory=dict)  # what a worker's run returns -> worker
    _deaths: int = 0
    _told: dict[int, WorkerState] = field(default_factory=dict)
    _tokens: int = 0

    def work(self) -> Written:
        """Return what all workers wrote, once none is left; raise MoetraceError where they could not go on."""
        found, errors = Written(), []
        try:
            for number in range(self.count):
                self._start(number)
            last: float | None = None  # when all that is left to do is to hear of the others
            while self._running and (last is None or monotonic() < last):
                ended, _ = self.ray.wait(list(self._running), timeout=LOOK)
                for run in ended:
                    number, _ = self._running.pop(run)
                    try:
                        with _our_errors(self.ray):
                            found.add(self.ray.get(run))
                        last = last or monotonic() + LAST_WORDS  # a worker ends well once the store has every shard
                    except MoetraceError as error:
                        errors.append(error)
                        self.progress.stage(f"worker {number} ended: {error}")
                    except self.ray.exceptions.RayActorError:
                        self._died(number)
                self._look()
            self._look()
        finally:
            for number, actor in self._running.values():
                self.ray.kill(actor)
                with suppress(self.ray.exceptions.RayError):
                    self.ray.get(self.planner.gone.remote(number, died=False), timeout=LAST_WORDS)
        if errors and len(errors) == self.count:
            raise errors[0]
        return found

    def _start(self, number: int) -> None:
        options: dict[str, Any] = {
            "num_cpus": self.workers.cpus_of(self.settings.writers),
            "num_gpus": self.workers.gpus_of(self.settings.engine),
            "memory": None if self.workers.memory_gib is None else int(self.workers.memory_gib * 2**30),
        }
        cores = None
        if self.workers.on_this_machine and not options["num_gpus"]:
            cores = _share(number, self.count)
        actor = self.ray.remote(Worker).options(**options).remote(number, self.count, self.planner, cores)
        self._running[actor.run.remote()] = number, actor

    def _died(self, number: int) -> None:
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise MoetraceError(
                f"{self._deaths} workers died without finishing a shard between them; run the same command with "
                "--workers 1 or without it, and look at what it says"
            )
        self.ray.get(self.planner.gone.remote(number, died=True))
        self.progress.stage(f"worker {number} died; it is started again")
        self._start(number)

    def _look(self) -> None:
        """Ask how far the workers are, and say it."""
        states: dict[int, WorkerState] = self.ray.get(self.planner.states.remote())
        if any(state.shards > self._told[number].shards for number, state in states.items() if number in self._told):
            self._deaths = 0
        tokens = self._tokens + sum(_since(self._told.get(number), state) for number, state in states.items())
        if tokens > self._tokens:
            self.progress.advance(tokens - self._tokens)
            self._tokens = tokens
        self._told = states
        self.progress.workers({number: (state.doing, state.shards) for number, state in states.items()})


def _since(before: WorkerState | None, now: WorkerState) -> int:
    """Return the tokens that a worker has traced since it was last looked at; one that was started anew begins at 0."""
    return now.tokens - before.tokens if before is not None and before.process == now.process else now.tokens


def _share(number: int, of: int) -> list[int]:
    """Return the cores of this machine that are a worker's own."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[number * len(cores) // of : (number + 1) * len(cores) // of] or [cores[number % len(cores)]]


def _absolute(name: str) -> str:
    """Return the absolute path of what is a file or folder here; what is none is a name, and stays."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _room(ray: Any, workers: Workers, settings: TraceSettings) -> int:
    """Return how many workers a cluster has room for; raise MoetraceError where it has none for one."""
    has, gpus = ray.cluster_resources(), workers.gpus_of(settings.engine)
    room = has.get("CPU", 0.0) / max(workers.cpus_of(settings.writers), 1e-9)
    room = min(room, has.get("GPU", 0.0) / gpus) if gpus else room
    if room < 1:
        raise MoetraceError(
            f"the cluster has {has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs, a worker takes "
            f"{workers.cpus_of(settings.writers):g} and {gpus:g}; lower --worker-cpus or --worker-gpus"
        )
    return int(room)


def _planner(ray: Any, workers: Workers) -> Any:
    """Start the planner: beside the driver, where the corpus is, unless that is not a part of the cluster."""
    options: dict[str, Any] = {"num_cpus": 0}
    if workers.cluster in {None, RAY}:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  an extra

        here = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(Planner).options(**options).remote()


@contextmanager
def _ray(workers: Workers) -> Iterator[Any]:
    """Start or join a cluster, and leave it; raise MoetraceError where there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS", "") if workers.cluster == RAY else workers.cluster
    if address:
        _require_answer(address)
    import ray  # noqa: PLC0415  an extra

    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False, "namespace": f"moetrace-{os.getpid()}"}
    try:
        if workers.on_this_machine:
            cores = max(len(os.sched_getaffinity(0)), workers.count or 1)
            ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        else:
            ray.init("auto" if workers.cluster == RAY else workers.cluster, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = f"--cluster {workers.cluster}" if workers.cluster else "--workers"
        token = "" if workers.on_this_machine or os.environ.get("RAY_AUTH_MODE") else LOCKED
        raise MoetraceError(f"{where}: Ray has no cluster there, or cannot start one ({first}){token}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise MoetraceError where nobody answers at HOST:PORT or ray://HOST:PORT: Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # a name that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise MoetraceError(f"--cluster: nobody answers at {address} ({error}); start a cluster there first") from error


@contextmanager
def _our_errors(ray: Any) -> Iterator[None]:
    """Let an error of ours that another process raised be raised as it was there."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MoetraceError):
            raise error.cause from None
        raise
