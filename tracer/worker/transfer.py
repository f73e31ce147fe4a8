"""The way of a step from the device to the host. Torch only, no vLLM.

On a CPU a step is read where it lies. On a GPU copies run on a stream of their own into one of two pinned slots, so
that the next step's forward pass runs while the last step travels; the pass after it waits, on the device, until its
buffers have been read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from moetrace.tracer.worker.steps import KeptRows, Step, StepRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.tracer.worker.buffers import StepBuffers

SLOTS = 2


class Transfer(Protocol):
    """How steps come from the buffers to the host."""

    def before_forward(self, tokens: int) -> None:
        """Make the buffers ready for a step of that many tokens."""

    def send(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None = None) -> None:
        """Take over the step that was just launched; `kept`: the rows whose probabilities are added up, None: all."""

    def receive(self, *, wait: bool) -> Iterator[tuple[StepRows, Step]]:
        """Yield steps in order; without `wait` only those that have arrived. Arrays hold until the next `send`."""


def make_transfer(buffers: StepBuffers) -> Transfer:
    """Return the transfer for the buffers' device."""
    return DirectTransfer(buffers) if buffers.ids.device.type == "cpu" else StreamTransfer(buffers, CudaStreams())


class DirectTransfer:
    """On a CPU: the step is read from the buffers themselves."""

    def __init__(self, buffers: StepBuffers) -> None:
        self._buffers = buffers
        self._ready: deque[tuple[StepRows, Step]] = deque()

    def before_forward(self, tokens: int) -> None:
        """Mark the rows as not written."""
        self._buffers.clear(tokens)

    def send(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None = None) -> None:
        """Make the step."""
        tokens = int(rows.counts.sum())
        sums = None
        if self._buffers.profiles:
            probabilities = _probabilities(self._buffers, token_ids[:tokens], kept)
            sums = _request_sums(probabilities, rows.counts).numpy()
        step = Step(
            self._buffers.ids[:, :, :tokens].numpy(),
            self._buffers.applied(tokens).numpy(),
            sums,
            token_ids[:tokens].to(torch.int32).numpy(),
        )
        self._ready.append((rows, step))

    def receive(self, *, wait: bool) -> Iterator[tuple[StepRows, Step]]:  # noqa: ARG002  nothing to wait for
        """Yield the step, once."""
        while self._ready:
            yield self._ready.popleft()


class CudaStreams:
    """CUDA's streams and events, behind the few calls that a transfer makes."""

    pinned = True

    def __init__(self) -> None:
        self._side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def event(self) -> Any:
        """Return a new event."""
        return torch.cuda.Event()  # type: ignore[no-untyped-call]

    def record_main(self, event: Any) -> None:
        """Record an event after what the main stream has been given so far."""
        event.record(torch.cuda.current_stream())

    def record_side(self, event: Any) -> None:
        """Record an event after what the side stream has been given so far."""
        event.record(self._side)

    def main_waits(self, event: Any) -> None:
        """Let the main stream go on only after the event."""
        torch.cuda.current_stream().wait_event(event)

    def side_waits(self, event: Any) -> None:
        """Let the side stream go on only after the event."""
        self._side.wait_event(event)

    def on_side(self) -> Any:
        """Return a context in which work is given to the side stream."""
        return torch.cuda.stream(self._side)


@dataclass
class _Slot:
    """One step on the host."""

    ids: torch.Tensor
    weights: torch.Tensor
    sums: torch.Tensor | None
    token_ids: torch.Tensor
    arrived: Any
    rows: StepRows | None = None


class StreamTransfer:
    """On a GPU: copies on a side stream into pinned slots, two steps deep."""

    def __init__(self, buffers: StepBuffers, streams: Any) -> None:
        self._buffers, self._streams = buffers, streams
        layers, top_k, tokens = buffers.ids.shape
        experts = buffers.logits.shape[2]

        def host(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, pin_memory=streams.pinned)

        def slot() -> _Slot:
            return _Slot(
                ids=host((layers * tokens * top_k,), buffers.ids.dtype),
                weights=host((layers * tokens * top_k,), torch.float32),
                sums=host((layers * tokens * experts,), torch.float32) if buffers.profiles else None,
                token_ids=host((tokens,), torch.int32),
                arrived=streams.event(),
            )

        self._free = deque(slot() for _ in range(SLOTS))
        self._travelling: deque[_Slot] = deque()
        self._launched, self._read = streams.event(), streams.event()
        self._streams.record_main(self._read)

    def before_forward(self, tokens: int) -> None:
        """Let the device, not the host, wait until the last step was read; then mark the rows as not written."""
        self._streams.main_waits(self._read)
        self._buffers.clear(tokens)

    def send(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None = None) -> None:
        """Launch the copies of a step; raise RuntimeError where both slots are taken: receive them first."""
        if not self._free:
            raise RuntimeError("both slots hold steps that nobody received")
        slot = self._free.popleft()
        slot.rows = rows
        tokens, buffers = int(rows.counts.sum()), self._buffers
        self._streams.record_main(self._launched)
        self._streams.side_waits(self._launched)
        with self._streams.on_side():
            _fill(slot.ids, buffers.ids[:, :, :tokens])
            _fill(slot.weights, buffers.applied(tokens))
            _fill(slot.token_ids, token_ids[:tokens].to(torch.int32))
            if slot.sums is not None:
                probabilities = _probabilities(buffers, token_ids[:tokens], kept)
                _fill(slot.sums, _segment_sums(probabilities, rows.counts))
            self._streams.record_side(self._read)
            self._streams.record_side(slot.arrived)
        self._travelling.append(slot)

    def receive(self, *, wait: bool) -> Iterator[tuple[StepRows, Step]]:
        """Yield steps that have arrived; always at least as many as make one slot free."""
        while self._travelling:
            slot = self._travelling[0]
            if wait or not self._free:
                slot.arrived.synchronize()
            elif not slot.arrived.query():
                return
            self._travelling.popleft()
            yield self._step(slot)
            self._free.append(slot)

    def _step(self, slot: _Slot) -> tuple[StepRows, Step]:
        rows = slot.rows
        if rows is None:
            raise RuntimeError("a slot without a step")
        layers, top_k, _ = self._buffers.ids.shape
        tokens, requests = int(rows.counts.sum()), len(rows.counts)

        def shaped(flat: torch.Tensor, *shape: int) -> Any:
            return flat[: int(np.prod(shape))].view(shape).numpy()

        sums = None
        if slot.sums is not None:
            sums = shaped(slot.sums, layers, requests, self._buffers.logits.shape[2])
        return rows, Step(
            shaped(slot.ids, layers, top_k, tokens),
            shaped(slot.weights, layers, top_k, tokens),
            sums,
            shaped(slot.token_ids, tokens),
        )


def _probabilities(buffers: StepBuffers, token_ids: torch.Tensor, kept: KeptRows | None) -> torch.Tensor:
    """Return the full router probabilities of a step, float32 [L, n, E]; 0 in rows that are not kept.

    token_ids: [n], on the device
    """
    probabilities = buffers.probabilities(len(token_ids))
    if kept is None:
        return probabilities
    left_out = torch.from_numpy(~kept.at_kept_position).to(token_ids.device, non_blocking=True)
    if kept.special:
        special = torch.tensor(kept.special, dtype=token_ids.dtype).to(token_ids.device, non_blocking=True)
        left_out = left_out | torch.isin(token_ids, special)
    return probabilities.masked_fill_(left_out[:, None], 0)


def _request_sums(probabilities: torch.Tensor, counts: np.ndarray) -> torch.Tensor:
    """Return the probabilities [L, n, E] added up over each request's rows, float32 [L, R, E], on a CPU."""
    layers, tokens, experts = probabilities.shape
    if len(counts) == tokens:
        return probabilities
    owner = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    return torch.zeros((layers, len(counts), experts)).index_add_(1, owner, probabilities)


def _segment_sums(probabilities: torch.Tensor, counts: np.ndarray) -> torch.Tensor:
    """Return the probabilities [L, n, E] added up over each request's rows, float32 [L, R, E], on the device.

    A reduction by segments adds in the order of the rows: the same step gives the same bits, unlike atomic additions.
    """
    layers, tokens, experts = probabilities.shape
    by_token = probabilities.transpose(0, 1).reshape(tokens, -1)
    lengths = torch.from_numpy(counts).to(by_token.device, non_blocking=True)
    sums = torch.segment_reduce(by_token, "sum", lengths=lengths, axis=0)
    return sums.view(len(counts), layers, experts).transpose(0, 1)


def _fill(flat: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a tensor into the beginning of a flat host buffer, without waiting for it."""
    flat[: source.numel()].view(source.shape).copy_(source, non_blocking=True)
