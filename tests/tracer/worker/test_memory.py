"""What the tap is said to take of memory, against the memory of every tensor that it makes and keeps."""

from __future__ import annotations

from collections import deque
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker import PROBE_TOKENS, tap
from moetrace.tracer.worker.buffers import StepBuffers
from moetrace.tracer.worker.memory import tap_memory
from moetrace.tracer.worker.steps import KeptRows, StepRows
from moetrace.tracer.worker.transfer import DirectTransfer, StreamTransfer
from tests.support.streams import Streams

LAYERS, EXPERTS, TOP_K, TOKENS, REQUESTS = 5, 300, 3, 96, 12


def storages(thing: Any, found: dict[int, int] | None = None) -> dict[int, int]:
    """Return address -> bytes of the memory of every tensor that can be reached from a thing."""
    found = {} if found is None else found
    if isinstance(thing, torch.Tensor):
        found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    elif isinstance(thing, (list, tuple, deque)):
        for part in thing:
            storages(part, found)
    elif is_dataclass(thing):
        storages([getattr(thing, field.name) for field in fields(thing)], found)
    elif type(thing).__module__.startswith("moetrace"):
        storages(list(vars(thing).values()), found)
    return found


class Allocations(TorchDispatchMode):
    """Bytes of each tensor that operations returned in memory of its own."""

    def __init__(self, known: dict[int, int]) -> None:
        super().__init__()
        self.known, self.bytes = dict(known), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for address, size in storages(made).items():
            if address not in self.known:
                self.known[address] = size
                self.bytes += size
        return made


def made(*, profiles: bool, static: bool, experts: int = EXPERTS) -> StepBuffers:
    return StepBuffers.make(
        [1.0] * LAYERS,
        TOKENS,
        experts,
        TOP_K,
        torch.device("cpu"),
        logit_rows=min(TOKENS, PROBE_TOKENS),
        scoring="softmax",
        requests=REQUESTS if profiles else None,
        static=static,
    )


@pytest.mark.parametrize("profiles", [True, False])
@pytest.mark.parametrize("experts", [60, 300])
def test_all_that_is_kept_is_in_the_sum(profiles: bool, experts: int) -> None:  # noqa: FBT001  a parameter
    shape = (LAYERS, experts, TOP_K, TOKENS, REQUESTS if profiles else None)
    buffers = made(profiles=profiles, static=True, experts=experts)
    transfer = StreamTransfer(buffers, Streams())
    pinned, every = storages(transfer._free), storages(transfer)
    assert tap_memory(*shape, static=True).pinned == sum(pinned.values())
    assert tap_memory(*shape, static=True).device == sum(every.values()) - sum(pinned.values())
    direct = storages(DirectTransfer(made(profiles=profiles, static=False, experts=experts)))
    assert tap_memory(*shape, static=False).device == sum(direct.values())
    assert tap_memory(*shape, static=False).pinned == 0


@pytest.mark.parametrize("requests", [1, 7, REQUESTS])
@pytest.mark.parametrize("tokens", [REQUESTS, TOKENS])
def test_a_step_allocates_no_more_than_its_sums_which_had_room(requests: int, tokens: int) -> None:
    buffers = made(profiles=True, static=True)
    transfer = StreamTransfer(buffers, Streams())
    counts = np.full(requests, tokens // requests)
    counts[0] += tokens - counts.sum()
    rows = StepRows([str(number) for number in range(requests)], np.zeros(requests, np.int64), counts)
    token_ids, kept = torch.zeros(TOKENS, dtype=torch.int64), KeptRows(np.arange(tokens) % 3 > 0, (5,))
    sums = LAYERS * REQUESTS * EXPERTS * 4
    before = storages([transfer, token_ids])
    room = storages(transfer._packed.sums)
    transfer.before_forward(rows, token_ids, kept)
    with Allocations({address: size for address, size in before.items() if address not in room}) as step:
        transfer.send()
    after = storages([transfer, token_ids])
    assert sum(before.values()) - sum(after.values()) == sums, "room for the first step's sums"
    least = LAYERS * requests * EXPERTS * 4 if requests < tokens else 0
    assert least <= step.bytes <= least + 50 * TOKENS, "beside the sums, a few numbers a token"


def test_a_device_without_room_is_told_what_the_tap_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tap, "RouterTap", full)
    limits = SimpleNamespace(max_num_batched_tokens=8192, max_num_seqs=256)
    worker = SimpleNamespace(vllm_config=SimpleNamespace(scheduler_config=limits), device=torch.device("cpu"))
    seam: Any = SimpleNamespace(layers=list(range(48)), num_experts=128, top_k=8, tap=None)
    needed = "takes 241 MB for steps of 8192 tokens: lower gpu_memory_utilization"
    with pytest.raises(MoetraceError, match=needed):
        tap.WorkerTap(seam, worker, {"profiles": True, "scoring": "softmax"})
    assert seam.tap is None
