"""The tap beside a GPU, whose steps travel and are put together by a thread, captures what the tap on a CPU does."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from moetrace.tracer.worker import TAG, tap
from moetrace.tracer.worker.background import AtOnce, InBackground
from moetrace.tracer.worker.rows import Batch
from moetrace.tracer.worker.steps import StepRows
from moetrace.tracer.worker.tap import WorkerTap
from moetrace.tracer.worker.transfer import DirectTransfer, StreamTransfer
from tests.support.steps import EXPERTS, LAYERS, TOKENS, TOP_K, RoutedStep, make_buffers, request, routed_step
from tests.support.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.tracer.worker.assembly import CapturedShard

KEY = "eng_Latn/00000"
PROMPTS, MORE = [7, 1, 12, 5, 9, 3], [2, 0, 3, 1, 0, 3]  # tokens of each text, and what is generated after them


class Tapped:
    """A tap without vLLM, on a CPU's way or on a GPU's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gpu: bool) -> None:
        buffers = make_buffers(static=gpu)
        routers = SimpleNamespace(
            buffers=buffers, layers=list(range(LAYERS)), num_experts=EXPERTS, top_k=TOP_K, probing=False
        )
        with monkeypatch.context() as patched:
            patched.setattr(tap, "RouterTap", lambda *_: routers)
            patched.setattr(
                tap, "make_transfer", lambda _: StreamTransfer(buffers, Streams()) if gpu else DirectTransfer(buffers)
            )
            patched.setattr(tap, "_work_beside", lambda _: InBackground(begin=lambda: None) if gpu else AtOnce())
            limits = SimpleNamespace(max_num_batched_tokens=TOKENS, max_num_seqs=8)
            worker = SimpleNamespace(vllm_config=SimpleNamespace(scheduler_config=limits), device=torch.device("cpu"))
            self.tap = WorkerTap(SimpleNamespace(tap=None), worker, {"profiles": True})
        self._buffers = buffers
        self._begun: set[str] = set()
        self._ended: set[str] = set()

    def run(self, step: RoutedStep) -> None:
        """Run a step as vLLM's worker does; requests that ended in the last one are told of with it."""
        names = [name for name in step.rows.requests if name not in self._begun]
        self._begun.update(names)
        told = SimpleNamespace(
            finished_req_ids=self._ended,
            scheduled_new_reqs=[request(name, {TAG: [KEY, int(name)]}) for name in names],
            total_num_scheduled_tokens=int(step.rows.counts.sum()),
        )
        self._ended = set()
        assert self.tap.before_step(told)
        self.tap.before_forward(Batch(step.rows, step.token_ids))
        step.write(self._buffers)
        self.tap.after_step()

    def end(self, name: str) -> None:
        self._ended.add(name)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tapped]:
    made = Tapped(monkeypatch, gpu=False)
    yield made
    made.tap.remove()


@pytest.fixture
def beside_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tapped]:
    made = Tapped(monkeypatch, gpu=True)
    yield made
    made.tap.remove()


def steps(rng: np.random.Generator) -> Iterator[tuple[RoutedStep, list[int]]]:
    """Yield steps over all texts, in chunks, some texts begun again, each with the texts that end with it."""
    done, totals = [0] * len(PROMPTS), [prompt + more for prompt, more in zip(PROMPTS, MORE, strict=True)]
    while left := [text for text, total in enumerate(totals) if done[text] < total]:
        chosen = sorted(rng.choice(left, size=rng.integers(1, len(left) + 1), replace=False).tolist())
        for text in chosen:
            if rng.random() < 0.1:
                done[text] = 0  # preempted
        counts = [int(rng.integers(1, min(4, totals[text] - done[text]) + 1)) for text in chosen]
        step = routed_step(rng, counts)
        ids = torch.argsort(torch.from_numpy(rng.random((LAYERS, sum(counts), EXPERTS))), dim=-1)[..., :TOP_K]
        rows = StepRows([str(text) for text in chosen], np.array([done[text] for text in chosen]), np.array(counts))
        for text, count in zip(chosen, counts, strict=True):
            done[text] += count
        yield replace(step, rows=rows, ids=ids.int()), [text for text in chosen if done[text] == totals[text]]


def captured(way: Tapped, rng: np.random.Generator, *, generated: bool) -> CapturedShard:
    totals = [prompt + more for prompt, more in zip(PROMPTS, MORE, strict=True)]
    way.tap.open(KEY, PROMPTS if generated else totals, 3 if generated else 0, None)
    found: list[CapturedShard] = []
    for step, ended in steps(rng):
        way.run(step)
        for text in ended:
            way.end(str(text))
        if ended and generated:
            way.tap.finish([(KEY, text, totals[text]) for text in ended])
        failure, some = way.tap.take()
        assert failure is None
        found += some
    way.tap.settle()
    failure, some = way.tap.take()
    assert failure is None
    (shard,) = found + some
    return shard


@pytest.mark.parametrize("generated", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_thread_puts_together_what_the_engine_would(
    on_cpu: Tapped,
    beside_gpu: Tapped,
    seed: int,
    generated: bool,  # noqa: FBT001  a parameter
) -> None:
    one, other = (captured(way, np.random.default_rng(seed), generated=generated) for way in (on_cpu, beside_gpu))
    assert one.lengths.tolist() == [prompt + more for prompt, more in zip(PROMPTS, MORE, strict=True)]
    for name in ("lengths", "token_ids", "experts", "weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.abs(one.profiles - other.profiles).max() < 1e-6


def test_the_engine_goes_on_while_a_step_is_put_together(beside_gpu: Tapped, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, go, added = beside_gpu.tap._planned, threading.Event(), []

    def add(*_: Any) -> None:
        assert go.wait(60)
        added.append(threading.current_thread())

    monkeypatch.setattr(planned, "add", add)
    beside_gpu.tap.open(KEY, PROMPTS, 0, None)
    (first, _), (second, _) = (next(steps(np.random.default_rng(seed))) for seed in (0, 1))
    beside_gpu.run(first)
    beside_gpu.end(first.rows.requests[0])
    beside_gpu.run(second)
    beside_gpu.tap.take()
    assert not added, "the engine waited for it, or did it itself"
    go.set()
    beside_gpu.tap.settle()
    assert len(added) == 2
    assert threading.current_thread() not in added


def test_why_a_step_could_not_be_put_together_comes_with_the_shards(beside_gpu: Tapped, on_cpu: Tapped) -> None:
    for way in (on_cpu, beside_gpu):
        way.tap.open(KEY, PROMPTS, 0, None)
        step, _ = next(steps(np.random.default_rng(0)))
        gap = replace(step, rows=replace(step.rows, starts=step.rows.starts + 1))
        way.run(gap)
        way.tap.settle()
        failure, shards = way.tap.take()
        assert "were never computed" in failure
        assert not shards
        way.tap.reset()
        way._begun.clear()
        assert captured(way, np.random.default_rng(3), generated=False).key == KEY, "a failure spoils what follows"


def test_an_unforeseen_error_of_the_thread_is_raised_to_the_engine(
    beside_gpu: Tapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_gpu.tap._planned, "add", lambda *_: 1 / 0)
    beside_gpu.tap.open(KEY, PROMPTS, 0, None)
    step, _ = next(steps(np.random.default_rng(0)))
    beside_gpu.run(step)
    with pytest.raises(ZeroDivisionError):
        beside_gpu.tap.settle()
