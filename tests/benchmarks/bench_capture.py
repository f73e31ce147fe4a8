"""What capture costs beside the forward pass, stage by stage, without an engine. `make bench-capture`.

Steps of made-up routing go through the routers' copies, the transfer and the shards of a plan, as an engine's would.
Figures are nanoseconds of CPU of one core a decision (one expert of one layer of one token), medians over the rounds,
first the way of a CPU, then the host's part of the way of a GPU, on streams that stand in for its own.

- record: the copies in each router; probabilities: softmax, in the router on a CPU; sums: of each request's rows
- clear, check: rows marked as not written, and seen to be written; applied: routed scaling, and handing over the step
- copy: into the shard, with its positions; profiles: sums of steps added up; hand over: the whole shard, its filters
  and ends; tokens: compared with the plan's
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from moetrace.tracer.engine.generation import Generation
from moetrace.tracer.engine.queue import UnderWay
from moetrace.tracer.plan.shards import PlannedShard
from moetrace.tracer.worker import TAG, assembly
from moetrace.tracer.worker import profiles as profiles_module
from moetrace.tracer.worker.assembly import PlannedShards
from moetrace.tracer.worker.buffers import RoutingCopies, StepBuffers
from moetrace.tracer.worker.steps import StepRows
from moetrace.tracer.worker.transfer import DirectTransfer, StreamTransfer
from tests.support.steps import request
from tests.support.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHAPES = {"48 x 128, top-8": (48, 128, 8), "24 x 64, top-8": (24, 64, 8)}
STEP, REQUESTS = 4096, 256  # tokens of a step at most, and its requests
STAGES = ("record", "clear", "probabilities", "sums", "applied", "check", "copy", "profiles", "hand over", "tokens")


class Clock:
    """Adds up the CPU time of the stages while it is on, less what looking at the clock takes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.on = False
        looks = 1000
        start = time.process_time()
        for _ in range(looks):
            time.process_time()
        self._look = (time.process_time() - start) / looks

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            if not self.on:
                return function(*args, **options)
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds[stage] += time.process_time() - start - self._look

        return run

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the functions of the stages while the block runs."""
        with ExitStack() as undo:
            for owner, name, stage in WATCHED:
                kept = getattr(owner, name)
                setattr(owner, name, self.timed(kept, stage))
                undo.callback(setattr, owner, name, kept)
            yield


WATCHED: tuple[tuple[Any, str, str], ...] = (
    (RoutingCopies, "copy", "record"),
    (profiles_module, "write_probabilities", "probabilities"),
    (profiles_module, "segment_sums", "sums"),
    (StepBuffers, "clear", "clear"),
    (StepBuffers, "applied", "applied"),
    (assembly, "require_written", "check"),
    (assembly._Positions, "put", "copy"),
    (assembly, "add_sums", "profiles"),
    (assembly, "_captured", "hand over"),
    (UnderWay, "finish", "tokens"),
)


class Model:
    """What the routers of a model of so many layers and experts would make of any step, of four layers in turn."""

    def __init__(self, layers: int, num_experts: int, top_k: int, *, gpu: bool) -> None:
        rng = np.random.default_rng(0)
        logits = torch.from_numpy(rng.normal(size=(4, STEP, num_experts)).astype(np.float32))
        self.layers, self.logits = layers, logits
        self.weights, ids = torch.softmax(logits, -1).topk(top_k)
        self.ids = ids.to(torch.int32)
        self.buffers = StepBuffers.make(
            [1.0] * layers,
            STEP,
            num_experts,
            top_k,
            torch.device("cpu"),
            logit_rows=64,
            scoring="softmax",
            requests=REQUESTS,
            static=gpu,
        )
        self.transfer = StreamTransfer(self.buffers, Streams()) if gpu else DirectTransfer(self.buffers)
        self.copies = RoutingCopies(self.buffers)
        self.shards = PlannedShards(range(layers), num_experts, top_k, profiles=True)

    def routed(self, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return ids, weights and logits of so many rows, layer by layer."""
        return [
            (self.ids[layer % 4][:tokens], self.weights[layer % 4][:tokens], self.logits[layer % 4][:tokens])
            for layer in range(self.layers)
        ]

    def run(
        self, rows: StepRows, token_ids: torch.Tensor, routed: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    ) -> None:
        """Capture a step."""
        self.transfer.before_forward(rows, token_ids)
        for layer, (ids, weights, logits) in enumerate(routed):
            self.copies.copy(layer, ids, weights)
            self.buffers.profiles.add(layer, logits)
        self.transfer.send()
        for arrived, step in self.transfer.receive():
            self.shards.add(step, arrived)


def planned(lengths: np.ndarray) -> PlannedShard:
    rng, texts = np.random.default_rng(1), len(lengths)
    token_ids = tuple(rng.integers(0, 50_000, length).astype(np.int32) for length in lengths)
    names = tuple(str(number) for number in range(texts))
    return PlannedShard("eng_Latn", 0, np.arange(texts), names, np.zeros(texts, dtype=bool), token_ids)


def steps_of(counts: np.ndarray, starts: np.ndarray) -> Iterator[StepRows]:
    """Cut texts into steps of at most STEP tokens and REQUESTS texts, in their order, the last of a step in two."""
    counts, starts, first = counts.copy(), starts.copy(), 0
    while first < len(counts):
        ends = np.cumsum(counts[first : first + REQUESTS])
        texts = min(int(np.searchsorted(ends, STEP)) + 1, len(ends))
        taken = counts[first : first + texts].copy()
        taken[-1] -= max(0, int(ends[texts - 1]) - STEP)
        yield StepRows([str(first + number) for number in range(texts)], starts[first : first + texts].copy(), taken)
        counts[first : first + texts] -= taken
        starts[first : first + texts] += taken
        first += texts - bool(counts[first + texts - 1])


def captured(model: Model, clock: Clock, *, decoding: bool) -> tuple[float, int]:
    """Capture a shard of some 32K tokens; return seconds of CPU and decisions, of decoding alone where it decodes."""
    rng = np.random.default_rng(2)
    lengths = np.full(REQUESTS, 40) if decoding else rng.integers(10, 71, 800)
    new = rng.integers(60, 101, len(lengths)) if decoding else np.zeros(len(lengths), dtype=np.int64)
    shard, generated = planned(lengths), [list(range(count)) for count in new]
    whole = [np.array([*ids, *more], np.int32) for ids, more in zip(shard.token_ids, generated, strict=True)]
    under_way = UnderWay(None, model.layers, Generation(100, lambda _: "") if decoding else None, None)
    under_way.begin(shard, wait=True)
    under_way.outputs[shard.key] = dict(enumerate(generated)) if decoding else {}
    model.shards.open(shard.key, lengths.tolist(), 100 if decoding else 0)
    for text in range(len(lengths)):
        model.shards.begin(request(str(text), {TAG: [shard.key, text]}))
    prefill = list(steps_of(lengths, np.zeros(len(lengths), dtype=np.int64)))
    decode = []
    for position in range(int(new.max(initial=0))):
        texts = np.flatnonzero(new > position)
        decode.append(StepRows([str(text) for text in texts], lengths[texts] + position, np.ones(len(texts), np.int64)))
    spent, tokens = 0.0, 0
    for rows in prefill + decode:
        clock.on = not decoding or rows.starts.min() >= 40
        ids = [whole[int(r)][s : s + c] for r, s, c in zip(rows.requests, rows.starts, rows.counts, strict=True)]
        token_ids, routed = torch.from_numpy(np.concatenate(ids)), model.routed(int(rows.counts.sum()))
        start = time.process_time()
        model.run(rows, token_ids, routed)
        if clock.on:
            spent += time.process_time() - start
            tokens += len(token_ids)
    start = time.process_time()
    if decoding:
        model.shards.finish([(shard.key, text, len(ids)) for text, ids in enumerate(whole)])
    (under_way.parts[shard.key],) = [model.shards.take()]
    found = under_way.finish(shard.key)
    spent += time.process_time() - start
    assert np.array_equal(found.token_ids, np.concatenate(whole))
    return spent, tokens * model.ids.shape[2] * model.layers


def measured(model: Model, rounds: int, *, decoding: bool) -> dict[str, float]:
    """Return nanoseconds of CPU a decision of each stage, of all without a clock in it, and of what is left of that."""
    captured(model, Clock(), decoding=decoding)  # the first warms up
    spans, found = [], []
    for _ in range(rounds):
        seconds, decisions = captured(model, Clock(), decoding=decoding)
        spans.append(seconds * 1e9 / decisions)
        with (clock := Clock()).watching():
            captured(model, clock, decoding=decoding)
        found.append({stage: seconds * 1e9 / decisions for stage, seconds in clock.seconds.items()})
    stages = {stage: statistics.median(each[stage] for each in found) for stage in STAGES}
    every = statistics.median(spans)
    return {**stages, "rest": every - sum(stages.values()), "all": every}


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores; ns of CPU a decision, medians of {rounds} rounds\n")
    titles = (*STAGES, "rest", "all")
    print("| shape           | way | step    | " + " | ".join(titles) + " |")
    print("|-----------------|-----|---------|" + "|".join("-" * (len(title) + 1) + ":" for title in titles) + "|")
    for (name, shape), gpu, decoding in product(SHAPES.items(), (False, True), (False, True)):
        model = Model(*shape, gpu=gpu)
        found = measured(model, rounds, decoding=decoding)
        cells = [f"{found[title]:{len(title)}.2f}" for title in titles]
        step = "decode" if decoding else "prefill"
        print(f"| {name} | {'GPU' if gpu else 'CPU'} | {step:<7} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
