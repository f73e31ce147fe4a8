"""What the tap takes of memory, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from moetrace.tracer.worker import PROBE_TOKENS
from moetrace.tracer.worker.steps import id_dtype

SLOTS = 2  # steps that may be on their way from a device to the host


@dataclass(frozen=True)
class TapMemory:
    """Bytes on the device, allocated as soon as the model is loaded, and pinned on the host; on a CPU all is device."""

    device: int
    pinned: int


def tap_memory(
    layers: int, num_experts: int, top_k: int, tokens: int, requests: int | None, *, static: bool
) -> TapMemory:
    """Return what the tap takes for steps of at most so many tokens and requests (None: without profiles).

    static: on a GPU, where steps are packed, and their probabilities kept row by row until the pass is over
    """
    decisions, floats = layers * top_k * tokens, 4
    chosen = decisions * (id_dtype(num_experts).itemsize + floats)
    probed = layers * min(tokens, PROBE_TOKENS) * num_experts * floats
    sums = layers * (requests or 0) * num_experts * floats
    step = chosen + tokens * 4 + sums  # packed: with its token ids
    if not static:
        return TapMemory(chosen + probed + sums + (tokens * num_experts * floats if requests else 0), 0)
    rows = layers * tokens * num_experts * floats if requests else 0
    return TapMemory(chosen + probed + rows + tokens * 4 + step, SLOTS * step)
