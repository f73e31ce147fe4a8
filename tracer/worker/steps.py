"""What passes from the tap to whoever keeps it: a step's rows, whose they are, and how they were routed. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm.v1.core.sched.output import NewRequestData

NOT_WRITTEN = -1  # 255 where ids are uint8


def id_dtype(num_experts: int) -> np.dtype[np.integer]:
    """Return the narrowest type of the ids of a layer's experts that has room for NOT_WRITTEN."""
    return np.dtype(np.uint8 if num_experts < 2**8 else np.int16 if num_experts < 2**15 else np.int32)


@dataclass(frozen=True)
class StepRows:
    """Whose the rows of a step are, request after request in row order, over R requests.

    - requests: the id of each
    - starts: int64 [R], position of each request's first row in its text
    - counts: int64 [R], rows of each request
    """

    requests: Sequence[str]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """What the tap saw in one engine step of n tokens of R requests, over L MoE layers of E experts, k chosen of them.

    - experts: [L, k, n] of the type `id_dtype` says, NOT_WRITTEN where no router wrote
    - weights: float32 [L, k, n], as applied
    - probability_sums: float32 [L, R, E], full router probabilities added up over each request's rows, or None
    - token_ids: int32 [n]
    """

    experts: npt.NDArray[np.integer]
    weights: npt.NDArray[np.float32]
    probability_sums: npt.NDArray[np.float32] | None
    token_ids: npt.NDArray[np.int32]


@dataclass(frozen=True)
class KeptRows:
    """Which rows of a step of n tokens count in a profile: those at kept positions whose token id is none of `special`.

    - at_kept_position: bool [n]
    """

    at_kept_position: npt.NDArray[np.bool_]
    special: tuple[int, ...]


class Sink(Protocol):
    """Where the steps of a worker go: shards of a plan (`PlannedShards`), or a run of requests (`RequestRecorder`)."""

    def begin(self, request: NewRequestData) -> bool:
        """Learn of a new request; tell whether its rows are wanted."""

    def kept(self, rows: StepRows) -> KeptRows | None:
        """Tell which rows of the step that is about to be added count in a profile; None: every one."""

    def add(self, step: Step, rows: StepRows) -> None:
        """Take a step, whose arrays hold until the next; raise CaptureError where it is no part of a whole trace."""

    def end(self, request: str) -> None:
        """Learn that a request whose rows were wanted has finished; all its rows were added before."""


def require_written(step: Step, layers: Sequence[int]) -> None:
    """Raise CaptureError naming the first of the MoE layers that left a row of the step unwritten."""
    ids = step.experts
    if ids.dtype == np.uint8:
        missing = ids.max(axis=(1, 2), initial=0) == 255
    else:
        missing = ids.min(axis=(1, 2), initial=0) <= NOT_WRITTEN
    for layer, lacks in zip(layers, missing, strict=True):
        if lacks:
            raise CaptureError(
                f"layer {layer}: the tap saw nothing in a step of {len(step.token_ids)} tokens; the engine does "
                "not call the router that was tapped (installed too late, or a monolithic kernel)"
            )


def runs(
    targets: npt.NDArray[np.int64], sources: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return stretches of rows, [R] each, with those joined that go on where the one before them ended.

    targets, sources: where each begins in what it is copied to and from; counts: its rows
    """
    if not len(counts):
        return targets, sources, counts
    begins = np.ones(len(counts), dtype=bool)
    np.not_equal(targets[1:] - sources[1:], targets[:-1] - sources[:-1], out=begins[1:])
    begins[1:] |= targets[1:] != targets[:-1] + counts[:-1]
    firsts = begins.nonzero()[0]
    return targets[firsts], sources[firsts], np.add.reduceat(counts, firsts)


def add_sums(
    profiles: npt.NDArray[np.float32],
    sums: npt.NDArray[np.float32],
    texts: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    begins: npt.NDArray[np.bool_],
) -> None:
    """Add the sums of a step [L, R, E] to those of texts [L, S, E]; those of a text that begins take their place.

    texts, numbers: which text and which request of the step, of each that is added; begins: whether the text does
    """
    for mine, add in ((begins, False), (~begins, True)):
        if not mine.any():
            continue
        for text, number, count in zip(*runs(texts[mine], numbers[mine], np.ones(int(mine.sum()), int)), strict=True):
            into, new = profiles[:, text : text + count], sums[:, number : number + count]
            np.add(into, new, out=into) if add else np.copyto(into, new)
