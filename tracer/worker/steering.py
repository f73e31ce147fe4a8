"""Which interventions a worker has, which rows of a step are under which, and what that does to a router. No vLLM.

Requests name an intervention by its digest. On a CPU only the steered rows are looked at, in the layers where something
is done to them: all other rows pass as they are, to the bit. On a GPU the same is computed for every row and kept for
the steered ones, from tables and a row map that never move, so that a captured graph serves any intervention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker import STEER_KEY
from moetrace.tracer.worker.intervening import (
    RowEffects,
    chooses_by_logits,
    forced_choice,
    steered_logits,
    weights_of_choice,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm.v1.core.sched.output import NewRequestData

    from moetrace.tracer.model.families import RoutingRule
    from moetrace.tracer.worker.steps import StepRows

    Routing = Callable[..., tuple[torch.Tensor, torch.Tensor]]

SLOTS = 64  # interventions that an engine has at a time
KINDS = ("soft", "scale", "forced")


@dataclass(frozen=True)
class Steered:
    """A request that is steered: the slot of its intervention, which of its tokens, how many are its prompt's."""

    slot: int
    scope: str
    prompt_tokens: int


@dataclass(frozen=True)
class SomeRows:
    """The rows of a step that something is done to in a layer: int64 [r], ascending, the last of them; slots [r]."""

    rows: torch.Tensor
    last: int
    slots: torch.Tensor

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return these rows of a tensor [n, ...]."""
        return tensor[self.rows]

    def put(self, tensor: torch.Tensor, new: torch.Tensor) -> None:
        """Put new rows into the first m rows of a step, [m, ...], as far as they are among them."""
        rows, new = self.rows, new.to(tensor.dtype)
        if self.last >= len(tensor):
            inside = rows < len(tensor)
            rows, new = rows[inside], new[inside]
        tensor.index_copy_(0, rows, new)


@dataclass(frozen=True)
class AllRows:
    """Every row of a step, and which of them are steered: bool [n, 1]."""

    steered: torch.Tensor

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return every row."""
        return tensor

    def put(self, tensor: torch.Tensor, new: torch.Tensor) -> None:
        """Put the steered rows into the first m rows of a step, [m, ...]."""
        rows = min(len(tensor), len(new))
        of_step = tensor[:rows]
        of_step.copy_(torch.where(self.steered[:rows], new[:rows].to(tensor.dtype), of_step))


@dataclass(frozen=True)
class LayerLogits:
    """Logits of some rows as they are steered, float32 [r, E], where the router's own type could not hold them."""

    rows: SomeRows | AllRows
    steered: torch.Tensor

    def among(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of the step [n, E], float32, with these in place of the router's own."""
        whole = logits.float()
        self.rows.put(whole, self.steered)
        return whole


class Steering:
    """The interventions of a worker.

    - layers: decoder indices of the MoE layers, ascending; static: compute every row, as a captured graph must
    """

    def __init__(
        self,
        layers: Sequence[int],
        num_experts: int,
        top_k: int,
        rule: RoutingRule,
        max_tokens: int,
        device: torch.device,
        *,
        static: bool,
    ) -> None:
        self.layers, self._top_k, self._rule, self._static = list(layers), top_k, rule, static
        shape = (SLOTS + 1, len(self.layers), num_experts)  # slot 0: nothing is done
        self._tables = {
            "soft": torch.zeros(shape, dtype=torch.float32, device=device),
            "scale": torch.zeros(shape, dtype=torch.float32, device=device),
            "forced": torch.zeros(shape, dtype=torch.int8, device=device),
        }
        self._does = np.zeros((len(KINDS), SLOTS + 1, len(self.layers)), dtype=bool)
        self._slots: dict[str, int] = {}
        self._scopes: dict[str, str] = {}
        self._running: dict[str, Steered] = {}
        self._row_slots = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self._written = 0
        self._rows, self._slot_of_row = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._here = np.zeros((len(KINDS), len(self.layers)), dtype=bool)  # what is done in this step
        self._some_rows: dict[bytes, SomeRows] = {}  # of this step, by which slots do something in a layer

    def table_bytes(self) -> int:
        """Return the memory of the tables and the row map."""
        return sum(table.nbytes for table in self._tables.values()) + self._row_slots.nbytes

    @property
    def running(self) -> bool:
        """Tell whether any request under way is steered."""
        return bool(self._running)

    def load(self, digest: str, scope: str, soft: list[Any], scale: list[Any], forced: list[Any]) -> None:
        """Take an intervention, as lists of (layer, expert, value); nothing happens where it is there.

        Raises MoetraceError where there are SLOTS of them.
        """
        if digest in self._slots:
            return
        in_use = {*self._slots.values(), *(steered.slot for steered in self._running.values())}
        free = sorted(set(range(1, SLOTS + 1)) - in_use)
        if not free:
            raise MoetraceError(f"an engine has at most {SLOTS} interventions at a time; remove one")
        place = {layer: index for index, layer in enumerate(self.layers)}
        for number, (kind, entries) in enumerate(zip(KINDS, (soft, scale, forced), strict=True)):
            table = self._tables[kind][free[0]]
            table.zero_()
            self._does[number, free[0]] = False
            for layer, expert, value in entries:
                if layer in place:  # other layers are another pipeline stage's
                    table[place[layer], expert] = value
                    self._does[number, free[0], place[layer]] = True
        self._slots[digest], self._scopes[digest] = free[0], scope

    def drop(self, digest: str) -> None:
        """Let no further request name an intervention; those that run under it go on, and keep its place in the tables.

        That a request has ended, a worker learns with the next step only.
        """
        self._slots.pop(digest, None)
        self._scopes.pop(digest, None)

    def begin(self, request: NewRequestData) -> None:
        """Learn of a new request; raise MoetraceError where it names an intervention that is not there."""
        extra = (request.sampling_params.extra_args if request.sampling_params else None) or {}
        digest = extra.get(STEER_KEY)
        if digest is None:
            return
        if digest not in self._slots:
            raise MoetraceError(f"request {request.req_id} asks for an intervention that this worker does not have")
        prompt = len(request.prompt_token_ids or ())
        self._running[request.req_id] = Steered(self._slots[digest], self._scopes[digest], prompt)

    def end(self, request: str) -> None:
        """Learn that a request has finished."""
        self._running.pop(request, None)

    def before_forward(self, rows: StepRows) -> None:
        """Learn whose the rows of the forward pass are that begins now."""
        found, start = [], 0  # slot, first row and number of rows of each request of which some are steered
        for request, first, count in zip(rows.requests, rows.starts.tolist(), rows.counts.tolist(), strict=True):
            steered = self._running.get(request)
            if steered is not None:
                of_prompt = min(max(steered.prompt_tokens - first, 0), count)
                begin = of_prompt if steered.scope == "generated" else 0
                end = of_prompt if steered.scope == "prompt" else count
                if begin < end:
                    found.append((steered.slot, start + begin, end - begin))
            start += count
        self._some_rows.clear()
        slots, begins, counts = np.asarray(found, dtype=np.int64).reshape(-1, 3).T
        self._slot_of_row = np.repeat(slots, counts)
        self._rows = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(len(self._slot_of_row))
        self._here = np.asarray(self._does[:, np.unique(slots)].any(axis=1))
        if self._static:
            of_step = np.zeros(max(start, self._written), dtype=np.int64)  # rows of the step before are cleared, too
            of_step[self._rows] = self._slot_of_row
            self._row_slots[: len(of_step)].copy_(torch.from_numpy(of_step), non_blocking=True)
            self._written = start

    def nothing(self) -> None:
        """Learn that nothing is steered in the forward pass that begins now."""
        if len(self._rows) or self._written:
            self._row_slots[: self._written].zero_()
            self._rows = self._slot_of_row = np.zeros(0, dtype=np.int64)
            self._here, self._written = np.zeros_like(self._here), 0

    def before_routing(self, index: int, logits: torch.Tensor) -> None:
        """Steer float32 logits [n, E] of a layer in place; what narrower ones would round away waits for the choice."""
        if logits.dtype == torch.float32 and (here := self._of_layer(index, len(logits))):
            rows, effects = here
            rows.put(logits, steered_logits(rows.take(logits), effects))

    def after_routing(
        self,
        index: int,
        routing: Routing,
        hidden_states: torch.Tensor,
        logits: torch.Tensor,
        weights: torch.Tensor,
        ids: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> LayerLogits | None:
        """Put the choice of a layer right in place, where it was made from logits that are not steered or are forced.

        routing: hidden states and logits of some rows -> their weights and ids, by the model's own code. Return the
        logits as steered where `logits` could not hold them.
        """
        narrow = logits.dtype != torch.float32
        if not narrow and chooses_by_logits(self._rule):
            return None  # the choice follows from the logits, which are steered
        here = self._of_layer(index, len(logits))
        if here is None:
            return None
        rows, effects = here
        forced = None if chooses_by_logits(self._rule) else effects.forced
        if not narrow and forced is None:
            return None
        steered = rows.take(logits)
        if narrow:
            steered = steered_logits(steered, effects)
            new_weights, new_ids = routing(rows.take(hidden_states), steered)
        else:
            new_weights, new_ids = rows.take(weights), rows.take(ids)
        if forced is not None:
            chosen = forced_choice(steered, bias, forced, self._rule, self._top_k)
            is_forced = (forced != 0).any(dim=-1, keepdim=True)
            mine = weights_of_choice(steered, chosen, new_ids, new_weights, self._rule)
            new_weights = torch.where(is_forced, mine.to(new_weights.dtype), new_weights)
            new_ids = torch.where(is_forced, chosen.to(new_ids.dtype), new_ids)
        rows.put(weights, new_weights)
        rows.put(ids, new_ids)
        return LayerLogits(rows, steered) if narrow else None

    def _of_layer(self, index: int, rows: int) -> tuple[SomeRows | AllRows, RowEffects] | None:
        """Return which rows of this step something is done to in a layer, and what; None where nothing is."""
        if self._static:
            slots = self._row_slots[:rows]
            effects = RowEffects(*(self._tables[kind][:, index].index_select(0, slots) for kind in KINDS))
            return AllRows((slots > 0).unsqueeze(-1)), effects
        here = self._here[:, index]
        if not here.any():
            return None
        found = self._rows_here(index)
        parts = [
            self._tables[kind][:, index].index_select(0, found.slots) if there else None
            for kind, there in zip(KINDS, here, strict=True)
        ]
        return found, RowEffects(*parts)

    def _rows_here(self, index: int) -> SomeRows:
        """Return the rows of this step that something is done to in a layer; layers that have the same share them."""
        steered = np.asarray(self._does[:, :, index].any(axis=0))  # [slots]
        key = steered.tobytes()
        if key not in self._some_rows:
            mine = steered[self._slot_of_row]
            rows = self._rows[mine]
            self._some_rows[key] = SomeRows(
                torch.from_numpy(rows), int(rows[-1]), torch.from_numpy(self._slot_of_row[mine])
            )
        return self._some_rows[key]
