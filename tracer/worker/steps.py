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

NOT_WRITTEN = -1


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

    - experts: integers [L, k, n], NOT_WRITTEN where no router wrote; weights: float32 [L, k, n], as applied
    - probability_sums: float32 [L, R, E], full router probabilities added up over each request's rows, or None
    - token_ids: int32 [n]
    """

    experts: npt.NDArray[np.signedinteger]
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
    lowest = step.experts.min(axis=(1, 2), initial=np.iinfo(step.experts.dtype).max)
    for layer, low in zip(layers, lowest, strict=True):
        if low <= NOT_WRITTEN:
            raise CaptureError(
                f"layer {layer}: the tap saw nothing in a step of {len(step.token_ids)} tokens; the engine does "
                "not call the router that was tapped (installed too late, or a monolithic kernel)"
            )
