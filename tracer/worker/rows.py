"""Which rows of a forward pass are which positions of which requests, known before it begins.

Both of vLLM's model runners make a batch final and then run the model; the hook is put in between. Model Runner V1
calls `_model_forward` there, once a step. Model Runner V2 calls the model or, where a whole CUDA graph is replayed,
does not: it is heard when `prepare_inputs` returns the batch, which is before either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.tracer.worker.steps import StepRows

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from vllm.v1.core.sched.output import SchedulerOutput


@dataclass(frozen=True)
class Batch:
    """A forward pass that is about to begin: whose its rows are, and their token ids, [n or more], on the device."""

    rows: StepRows
    token_ids: torch.Tensor


class BatchHook:
    """Calls `before_forward` with the batch of every step of a worker, after it is final and before the model runs."""

    def __init__(self, worker: Any, before_forward: Callable[[Batch], None]) -> None:
        """Install on a worker whose model is loaded."""
        self._runner, self._before_forward = worker.model_runner, before_forward
        self._step: SchedulerOutput | None = None
        self._name = "prepare_inputs" if worker.use_v2_model_runner else "_model_forward"
        self._hooked = getattr(self._runner, self._name)
        setattr(self._runner, self._name, self._v2 if worker.use_v2_model_runner else self._v1)

    def begin(self, step: SchedulerOutput | None) -> None:
        """Say which step the worker is about to run; None: one whose rows nobody wants."""
        self._step = step

    def remove(self) -> None:
        """Leave the runner as it was."""
        delattr(self._runner, self._name)  # the class's own method is back

    def _v1(self, *args: Any, **kwargs: Any) -> Any:
        if self._step is not None:
            batch = self._runner.input_batch
            self._tell(self._step, batch.req_ids, batch.num_computed_tokens_cpu, self._runner.input_ids.gpu)
        return self._hooked(*args, **kwargs)

    def _v2(self, *args: Any, **kwargs: Any) -> Any:
        batch = self._hooked(*args, **kwargs)
        if self._step is not None:
            self._tell(self._step, batch.req_ids, batch.num_computed_tokens_np, batch.input_ids)
        return batch

    def _tell(self, step: SchedulerOutput, requests: list[str], computed: Any, token_ids: torch.Tensor) -> None:
        requests = list(requests)  # the runner changes its list in the next step
        counts = np.array([step.num_scheduled_tokens[request] for request in requests], dtype=np.int64)
        starts = computed[: len(requests)].astype(np.int64)
        self._step = None
        self._before_forward(Batch(StepRows(requests, starts, counts), token_ids))
