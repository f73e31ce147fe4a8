"""Whose the rows of a step are is known before the model runs, in both of vLLM's model runners."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moetrace.tracer.worker.rows import Batch, BatchHook

STEP = SimpleNamespace(num_scheduled_tokens={"a": 3, "b": 1, "c": 2}, total_num_scheduled_tokens=6)
ORDER, COMPUTED = ["c", "a", "b"], np.array([7, 0, 12, 99, 99], dtype=np.int32)


class RunnerV1:
    """As vLLM's Model Runner V1 runs a step: a batch that it makes final, then `_model_forward`."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.input_batch = SimpleNamespace(req_ids=[], num_computed_tokens_cpu=np.zeros(5, dtype=np.int32))
        self.input_ids = SimpleNamespace(gpu=torch.arange(8))

    def execute_model(self) -> str:
        self.input_batch.req_ids, self.input_batch.num_computed_tokens_cpu = list(ORDER), COMPUTED
        return self._model_forward(input_ids=self.input_ids.gpu)

    def _model_forward(self, **_: Any) -> str:
        self.events.append("forward")
        return "output"


class RunnerV2:
    """As Model Runner V2 replays a whole CUDA graph: the model is never called."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def execute_model(self) -> str:
        batch = self.prepare_inputs(STEP)
        assert batch.req_ids == ORDER
        self.events.append("forward")
        return "output"

    def prepare_inputs(self, _step: Any) -> Any:
        return SimpleNamespace(req_ids=list(ORDER), num_computed_tokens_np=COMPUTED[:3], input_ids=torch.arange(8))


def hooked(kind: type[RunnerV1 | RunnerV2]) -> tuple[Any, BatchHook, list[Any]]:
    events: list[Any] = []
    runner = kind(events)
    worker = SimpleNamespace(model_runner=runner, use_v2_model_runner=kind is RunnerV2)
    return runner, BatchHook(worker, events.append), events


@pytest.mark.parametrize("kind", [RunnerV1, RunnerV2])
def test_rows_are_known_before_the_forward_pass(kind: type[RunnerV1 | RunnerV2]) -> None:
    runner, hook, events = hooked(kind)
    hook.begin(STEP)
    assert runner.execute_model() == "output"
    batch, forward = events
    assert forward == "forward"
    assert isinstance(batch, Batch)
    assert batch.rows.requests == ORDER
    assert batch.rows.starts.tolist() == [7, 0, 12]
    assert batch.rows.counts.tolist() == [2, 3, 1]
    assert batch.token_ids.tolist() == list(range(8))


@pytest.mark.parametrize("kind", [RunnerV1, RunnerV2])
def test_a_batch_is_kept_as_it_was_when_the_runner_goes_on_with_the_next(kind: type[RunnerV1 | RunnerV2]) -> None:
    runner, hook, events = hooked(kind)
    hook.begin(STEP)
    runner.execute_model()
    if isinstance(runner, RunnerV1):
        runner.input_batch.req_ids.clear()
        runner.input_batch.num_computed_tokens_cpu = COMPUTED + 1
    assert events[0].rows.requests == ORDER
    assert events[0].rows.starts.tolist() == [7, 0, 12]


@pytest.mark.parametrize("kind", [RunnerV1, RunnerV2])
def test_steps_that_nobody_wants_are_not_mapped(kind: type[RunnerV1 | RunnerV2]) -> None:
    runner, hook, events = hooked(kind)
    runner.execute_model()  # a step before any was announced: warm-up
    hook.begin(None)
    runner.execute_model()
    assert events == ["forward", "forward"]


@pytest.mark.parametrize("kind", [RunnerV1, RunnerV2])
def test_a_removed_hook_leaves_the_runner_as_it_was(kind: type[RunnerV1 | RunnerV2]) -> None:
    runner, hook, events = hooked(kind)
    before = set(vars(kind([])))
    hook.begin(STEP)
    hook.remove()
    assert set(vars(runner)) == before
    runner.execute_model()
    assert events == ["forward"]
