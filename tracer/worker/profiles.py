"""Router probabilities added up over each request's rows of a step: what profiles are made of. Torch only, no vLLM.

A layer's logits become probabilities where its router has just made them: neither all layers' logits nor all their
probabilities are made again from a copy. Additions are in the order of the rows, so the same step gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from moetrace.store.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.tracer.worker.steps import KeptRows, StepRows


class StepProfiles(Protocol):
    """What is kept of a step's router logits.

    - shape: of the sums of the largest step, (L, R, E)
    """

    shape: tuple[int, int, int]

    def begin(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None) -> None:
        """Learn whose the rows of the next pass are, and which of them count (`kept`, None: all).

        token_ids: [n or more], on the device. Raises CaptureError where the step has more requests than there is room.
        """

    def idle(self) -> None:
        """Learn that nobody wants the rows of the next pass."""

    def add(self, index: int, logits: torch.Tensor) -> None:
        """Take the logits [n or more, E] of a layer, which is number `index`, in its pass."""

    def sums(self) -> torch.Tensor:
        """Return the sums of the step, float32 [L, R, E], of R requests; they hold until the next pass begins."""


class RequestSums:
    """On a CPU: each layer is added up at once, in memory for the probabilities of one layer and the sums of all."""

    def __init__(self, layers: int, tokens: int, num_experts: int, requests: int, scoring: str) -> None:
        self._scoring = scoring
        self._probabilities = torch.zeros((tokens, num_experts))
        self._sums = torch.zeros((layers, requests, num_experts))
        self.shape = layers, requests, num_experts
        self._tokens = self._requests = 0
        self._into: Sequence[torch.Tensor] = ()  # by layer, of the requests of the step
        self._counted: tuple[torch.Tensor, torch.Tensor] | None = None  # rows that count, each request's first of them

    def begin(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None) -> None:
        """Find the rows that count."""
        self.idle()
        require_room(rows, self.shape[1])
        tokens, requests = int(rows.counts.sum()), len(rows.counts)
        self._counted = None
        if kept is not None:
            counts = kept.at_kept_position & ~np.isin(token_ids[:tokens].numpy(), kept.special)
            owner = np.repeat(np.arange(requests), rows.counts)[counts]
            self._counted = _indices(np.flatnonzero(counts), np.bincount(owner, minlength=requests))
        elif requests < tokens:
            self._counted = _indices(np.arange(tokens), rows.counts)
        if requests != self._requests:
            self._into = self._sums[:, :requests].unbind(0)
        self._tokens, self._requests = tokens, requests

    def idle(self) -> None:
        """Let go of the step."""
        self._tokens = 0

    def add(self, index: int, logits: torch.Tensor) -> None:
        """Add up a layer; one row a request needs no adding."""
        rows = logits.shape[0]
        if not self._tokens or rows < self._tokens:
            return  # a pass of nobody's; rows that no router wrote are noticed by their ids
        sums = self._into[index]
        if rows > self._tokens:
            logits = logits[: self._tokens]
        if self._counted is None:
            write_probabilities(logits, self._scoring, sums)
            return
        probabilities = self._probabilities[: self._tokens]
        write_probabilities(logits, self._scoring, probabilities)
        sums.copy_(segment_sums(probabilities, *self._counted))

    def sums(self) -> torch.Tensor:
        """Return the sums, in memory that the next pass writes over."""
        return self._sums[:, : self._requests]


class ProbabilityRows:
    """On a GPU: the probabilities of every row, at a fixed address as a captured graph needs, added up after the pass.

    Tokens come first: the rows of a step are one piece of memory, which is added up without a copy.
    """

    def __init__(
        self, layers: int, tokens: int, num_experts: int, requests: int, scoring: str, device: torch.device
    ) -> None:
        self._scoring, self.shape = scoring, (layers, requests, num_experts)
        self._rows = torch.zeros((tokens, layers, num_experts), device=device)
        self._step: tuple[StepRows, torch.Tensor, KeptRows | None] | None = None

    def begin(self, rows: StepRows, token_ids: torch.Tensor, kept: KeptRows | None) -> None:
        """Remember the rows."""
        self._step = None
        require_room(rows, self.shape[1])
        self._step = rows, token_ids, kept

    def idle(self) -> None:
        """Let go of the step."""
        self._step = None

    def add(self, index: int, logits: torch.Tensor) -> None:
        """Write the probabilities of a layer's rows; a captured graph does so in every pass."""
        write_probabilities(logits, self._scoring, self._rows[: len(logits), index])

    def sums(self) -> torch.Tensor:
        """Add up on the device, on the stream that is current; allocates R x L x E float32 where rows are added."""
        if self._step is None:
            raise RuntimeError("no step has begun")
        rows, token_ids, kept = self._step
        tokens, requests = int(rows.counts.sum()), len(rows.counts)
        layers, _, experts = self.shape
        probabilities = self._rows[:tokens]
        if kept is not None:
            probabilities.masked_fill_(_left_out(kept, token_ids[:tokens])[:, None, None], 0)
        if requests < tokens:
            every = torch.arange(tokens, device=self._rows.device)
            firsts = torch.from_numpy(np.cumsum(rows.counts) - rows.counts).to(self._rows.device, non_blocking=True)
            probabilities = segment_sums(probabilities.view(tokens, -1), every, firsts).view(requests, layers, experts)
        return probabilities.transpose(0, 1)


def require_room(rows: StepRows, room: int) -> None:
    """Raise CaptureError where a step has more requests than its engine said that one could have."""
    if len(rows.counts) > room:
        raise CaptureError(f"a step has {len(rows.counts)} requests, but the engine's max_num_seqs is {room}")


def write_probabilities(logits: torch.Tensor, scoring: str, out: torch.Tensor) -> None:
    """Write the full router probabilities of logits [n, E] to `out`, float32: softmax, or sigmoid made to sum to 1."""
    if scoring == "softmax":
        torch.softmax(logits, -1, dtype=torch.float32, out=out)
    else:
        torch.sigmoid(logits.float(), out=out)
        out.div_(out.sum(dim=-1, keepdim=True))


def segment_sums(values: torch.Tensor, rows: torch.Tensor, firsts: torch.Tensor) -> torch.Tensor:
    """Return values [n, E] added up, float32 [R, E]: of each segment the `rows` from its first on, in their order.

    firsts: where each of the R segments begins in `rows`; both int64
    """
    return torch.nn.functional.embedding_bag(rows, values, firsts, mode="sum")


def _indices(rows: np.ndarray, counts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(rows), torch.from_numpy(np.cumsum(counts) - counts)


def _left_out(kept: KeptRows, token_ids: torch.Tensor) -> torch.Tensor:
    """Return which rows do not count, bool [n] on the device of their token ids [n]."""
    left_out = torch.from_numpy(~kept.at_kept_position).to(token_ids.device, non_blocking=True)
    if kept.special:
        special = torch.tensor(kept.special, dtype=token_ids.dtype).to(token_ids.device, non_blocking=True)
        left_out = left_out | torch.isin(token_ids, special)
    return left_out
