"""The way of a step from the device to the host. Torch only, no vLLM.

On a CPU a step is read where it lies. On a GPU a step is packed on the device, on a stream of its own, and then copied
into one of two pinned slots, so that the next step's forward pass runs while the last step travels; the pass after it
waits, on the device, until its buffers have been packed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import torch

from moetrace.tracer.worker.memory import SLOTS
from moetrace.tracer.worker.steps import KeptRows, Step, StepRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.tracer.worker.buffers import StepBuffers


class Transfer(Protocol):
    """How steps come from the buffers to the host."""

    def before_forward(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None = None) -> None:
        """Make the buffers ready for the pass of a step.

        token_ids: [n or more], on the device; kept: the rows whose probabilities are added up, None: all
        """

    def has_room(self) -> bool:
        """Tell whether another step can be sent."""

    def send(self) -> None:
        """Take over the step whose pass was just launched."""

    def receive(self) -> Iterator[tuple[StepRows, Step]]:
        """Yield the steps that were sent and not received, in order, each once it has arrived.

        Arrays hold until the next step is asked for, or the next pass begins. Another thread may receive than sends.
        """


def make_transfer(buffers: StepBuffers) -> Transfer:
    """Return the transfer for the buffers' device."""
    return DirectTransfer(buffers) if buffers.ids.device.type == "cpu" else StreamTransfer(buffers, CudaStreams())


class _Transfer:
    """What both ways have: the buffers, and the step under way."""

    def __init__(self, buffers: StepBuffers) -> None:
        self._buffers = buffers
        self._step: tuple[StepRows, torch.Tensor] | None = None

    def _begin(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None) -> None:
        self._step = None
        tokens = int(rows.counts.sum())
        self._buffers.clear(tokens)
        if self._buffers.profiles is not None:
            self._buffers.profiles.begin(rows, token_ids, kept)
        self._step = rows, token_ids[:tokens]

    def _taken(self) -> tuple[StepRows, torch.Tensor]:
        """Return the step under way and its token ids, once."""
        if self._step is None:
            raise RuntimeError("no step has begun")
        step, self._step = self._step, None
        return step


class DirectTransfer(_Transfer):
    """On a CPU: the step is read from the buffers themselves."""

    def __init__(self, buffers: StepBuffers) -> None:
        super().__init__(buffers)
        self._ready: deque[tuple[StepRows, Step]] = deque()

    def before_forward(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None = None) -> None:
        """Mark the rows as not written."""
        self._begin(rows, token_ids, kept)

    def has_room(self) -> bool:
        """Tell that it can."""
        return True

    def send(self) -> None:
        """Make the step."""
        (rows, token_ids), profiles = self._taken(), self._buffers.profiles
        tokens = len(token_ids)
        step = Step(
            self._buffers.ids[:, :, :tokens].numpy(),
            self._buffers.applied(tokens).numpy(),
            None if profiles is None else profiles.sums().numpy(),
            token_ids.to(torch.int32).numpy(),
        )
        self._ready.append((rows, step))

    def receive(self) -> Iterator[tuple[StepRows, Step]]:
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


@dataclass(frozen=True)
class _Packed:
    """A step without gaps, on the device or on the host; `sums`: [R, L, E], None where they are not packed."""

    ids: torch.Tensor
    weights: torch.Tensor
    token_ids: torch.Tensor
    sums: torch.Tensor | None


@dataclass
class _Slot:
    """One step on the host."""

    packed: _Packed
    arrived: Any
    rows: StepRows | None = None


class StreamTransfer(_Transfer):
    """On a GPU: a step is packed and copied on a side stream into pinned slots, two steps deep."""

    def __init__(self, buffers: StepBuffers, streams: Any) -> None:
        super().__init__(buffers)
        self._streams = streams
        layers, top_k, tokens = buffers.ids.shape
        sums = 0 if buffers.profiles is None else prod(buffers.profiles.shape)

        def packed(**where: Any) -> _Packed:
            return _Packed(
                ids=torch.empty(layers * top_k * tokens, dtype=buffers.ids.dtype, **where),
                weights=torch.empty(layers * top_k * tokens, dtype=torch.float32, **where),
                token_ids=torch.empty(tokens, dtype=torch.int32, **where),
                sums=torch.empty(sums, dtype=torch.float32, **where) if sums else None,
            )

        self._free = deque(_Slot(packed(pin_memory=streams.pinned), streams.event()) for _ in range(SLOTS))
        self._travelling: deque[_Slot] = deque()
        self._launched, self._read = streams.event(), streams.event()
        self._token_ids = torch.empty(tokens, dtype=torch.int32, device=buffers.ids.device)
        self._streams.record_main(self._read)
        with self._streams.on_side():
            # Its `sums` are given back with the first step, whose own take their place: vLLM, which measures memory
            # before that, leaves room for them.
            self._packed = packed(device=buffers.ids.device)

    def before_forward(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None = None) -> None:
        """Let the device, not the host, wait until the last step was packed; then mark the rows as not written."""
        self._streams.main_waits(self._read)
        # vLLM fills its buffer for the next step before that pass begins, when this step may not be packed yet.
        tokens = int(rows.counts.sum())
        self._token_ids[:tokens].copy_(token_ids[:tokens])
        self._begin(rows, self._token_ids, kept)

    def has_room(self) -> bool:
        """Tell whether a slot is free."""
        return bool(self._free)

    def send(self) -> None:
        """Launch the copies of a step; raise RuntimeError where every slot is taken: receive them first."""
        if not self._free:
            raise RuntimeError("every slot holds a step that nobody received")
        (rows, token_ids), buffers = self._taken(), self._buffers
        slot, tokens = self._free.popleft(), len(token_ids)
        slot.rows, shape = rows, (*buffers.ids.shape[:2], tokens)
        self._packed = here = replace(self._packed, sums=None)
        self._streams.record_main(self._launched)
        self._streams.side_waits(self._launched)
        with self._streams.on_side():
            _shaped(here.ids, *shape).copy_(buffers.ids[:, :, :tokens])
            buffers.applied(tokens, out=_shaped(here.weights, *shape))
            here.token_ids[:tokens].copy_(token_ids)
            if buffers.profiles is not None and slot.packed.sums is not None:
                sums = buffers.profiles.sums().transpose(0, 1)
                _shaped(slot.packed.sums, *sums.shape).copy_(sums, non_blocking=True)
            self._streams.record_side(self._read)
            for array, size in (("ids", prod(shape)), ("weights", prod(shape)), ("token_ids", tokens)):
                getattr(slot.packed, array)[:size].copy_(getattr(here, array)[:size], non_blocking=True)
            self._streams.record_side(slot.arrived)
        self._travelling.append(slot)

    def receive(self) -> Iterator[tuple[StepRows, Step]]:
        """Wait for each step on its way; a slot is free again once the step after it is asked for."""
        for _ in range(len(self._travelling)):
            slot = self._travelling.popleft()
            slot.arrived.synchronize()
            try:
                yield self._arrived(slot)
            finally:
                self._free.append(slot)

    def _arrived(self, slot: _Slot) -> tuple[StepRows, Step]:
        rows, packed, profiles = slot.rows, slot.packed, self._buffers.profiles
        if rows is None:
            raise RuntimeError("a slot without a step")
        tokens, sums = int(rows.counts.sum()), None
        shape = (*self._buffers.ids.shape[:2], tokens)
        if profiles is not None and packed.sums is not None:
            layers, _, experts = profiles.shape
            sums = _shaped(packed.sums, len(rows.counts), layers, experts).transpose(0, 1).numpy()
        ids, weights = _shaped(packed.ids, *shape).numpy(), _shaped(packed.weights, *shape).numpy()
        return rows, Step(ids, weights, sums, packed.token_ids[:tokens].numpy())


def _shaped(flat: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return the beginning of a flat tensor as one of that shape."""
    return flat[: prod(shape)].view(shape)
