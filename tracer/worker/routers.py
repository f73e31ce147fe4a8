"""The seam in the routers of a model: what is steered before and after each of them routes, what is copied then.

Both are wrappers of the same call. In compiled code each is a custom op of which the graph holds nothing but its
tensors; one of them, `place`, says to the op which layer of which model it is in.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

import torch
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.utils.torch_utils import direct_register_custom_op

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker.outside import is_routed_outside, outside_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moetrace.tracer.worker.outside import OutsideLogits
    from moetrace.tracer.worker.steering import LayerLogits, Steering

    Routed = tuple[torch.Tensor, torch.Tensor]  # weights, ids

_SEAMS: WeakValueDictionary[int, RouterSeam] = WeakValueDictionary()
_NUMBERS = count()


def _steer_logits(logits: torch.Tensor, place: torch.Tensor) -> None:
    seam, index = _at(place)
    if seam.steering is not None:
        seam.steering.before_routing(index, logits)


def _steer_choice(
    hidden_states: torch.Tensor,
    logits: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    place: torch.Tensor,
) -> None:
    seam, index = _at(place)
    seam.steer_choice(index, hidden_states, logits, weights, ids)


def _record(
    ids: torch.Tensor,
    weights: torch.Tensor,
    logits: torch.Tensor,
    witness: torch.Tensor,  # noqa: ARG001  see below
    place: torch.Tensor,
) -> None:
    seam, index = _at(place)
    if seam.tap is not None:
        seam.tap.record(index, ids, weights, seam.as_steered(index, logits), probing=True)


def _at(place: torch.Tensor) -> tuple[RouterSeam, int]:
    number, index = place.tolist()
    return _SEAMS[number], index


# A custom op whose mutations are declared survives torch.compile; plain copies into a captured tensor may not. What is
# recorded goes, as far as a compiler knows, into `witness`, a single number: of buffers that it knew to be written it
# would make copies, of those of all layers once a layer.
for _op, _mutated in (
    (_steer_logits, ["logits"]),
    (_steer_choice, ["weights", "ids"]),
    (_record, ["witness"]),
):
    direct_register_custom_op(
        op_name=f"moetrace{_op.__name__}", op_func=_op, mutates_args=_mutated, fake_impl=lambda *_: None
    )


class Tap(Protocol):
    """Where the routing of each layer is copied to.

    - probing: whether an eager model's logits are kept
    """

    probing: bool

    @property
    def witnesses(self) -> Sequence[torch.Tensor]:
        """Return a tensor of one number for each layer, on the device."""

    def record(
        self, index: int, ids: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor, *, probing: bool
    ) -> None:
        """Copy the routing of a layer, its logits as they are steered; `probing`: keep the logits, too."""


class RouterSeam:
    """The wrapped routers of a model's MoE layers.

    - layers: decoder indices of the MoE layers, ascending; num_experts, top_k: of each; scales: their routed scaling
      factors
    - tap, steering: what is called there, or None; of a compiled model they are set before it is compiled
    - recording: whether an eager model's routing is copied; a compiled one's always is
    """

    def __init__(self, model: torch.nn.Module, *, compiled: bool) -> None:
        """Find the routers and wrap them; raise MoetraceError, naming the layer, where one cannot be seen."""
        runners = sorted((m for m in model.modules() if isinstance(m, MoERunner)), key=lambda runner: runner.layer_id)
        for runner in runners:
            require_tappable(runner, compiled=compiled)
        self.tap: Tap | None = None
        self.steering: Steering | None = None
        self.recording = True
        self.layers = [int(runner.layer_id) for runner in runners]
        self.routers = [runner.router for runner in runners]
        self.scales = [float(runner.routed_scaling_factor) for runner in runners]
        self.top_k = int(self.routers[0].top_k) if runners else 0
        self.num_experts = int(self.routers[0].global_num_experts) if runners else 0
        outside = outside_logits(model, self.num_experts)
        self.routed_outside = bool(outside)
        self._compiled = compiled
        self._routings: list[Callable[..., Routed]] = []
        self._late: list[LayerLogits | None] = [None] * len(runners)
        number = next(_NUMBERS)
        _SEAMS[number] = self
        for index, (runner, router) in enumerate(zip(runners, self.routers, strict=True)):
            self._wrap(router, index, torch.tensor([number, index]), outside.get(runner))

    def _wrap(self, router: Any, index: int, place: torch.Tensor, outside: OutsideLogits | None) -> None:
        routing: Callable[..., Routed] = router._compute_routing  # noqa: SLF001
        self._routings.append(routing)

        # What is traced by a compiler must not depend on a flag: there an op is always part of the graph, or never.
        def graph(hidden_states: torch.Tensor, router_logits: torch.Tensor, *args: Any, **kwargs: Any) -> Routed:
            if self.steering is not None:
                torch.ops.vllm.moetrace_steer_logits(router_logits, place)
            weights, ids = routing(hidden_states, router_logits, *args, **kwargs)
            if self.steering is not None:
                torch.ops.vllm.moetrace_steer_choice(hidden_states, router_logits, weights, ids, place)
            if self.tap is not None:
                torch.ops.vllm.moetrace_record(ids, weights, router_logits, self.tap.witnesses[index], place)
            return weights, ids

        def eager(hidden_states: torch.Tensor, router_logits: torch.Tensor, *args: Any, **kwargs: Any) -> Routed:
            if self.steering is not None:
                self.steering.before_routing(index, router_logits)
            weights, ids = routing(hidden_states, router_logits, *args, **kwargs)
            if self.steering is not None:
                self.steer_choice(index, hidden_states, router_logits, weights, ids)
            if self.tap is not None and self.recording:
                logits = outside.logits if outside else router_logits
                steered = self.as_steered(index, logits)
                self.tap.record(index, ids, weights, steered, probing=self.tap.probing)
            return weights, ids

        router._compute_routing = graph if self._compiled else eager  # noqa: SLF001

    def steer_choice(
        self, index: int, hidden_states: torch.Tensor, logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
    ) -> None:
        """Put the choice of a layer right where something is steered there."""
        if self.steering is not None:
            bias = getattr(self.routers[index], "e_score_correction_bias", None)
            routing = partial(self._routings[index], indices_type=ids.dtype)
            self._late[index] = self.steering.after_routing(index, routing, hidden_states, logits, weights, ids, bias)

    def as_steered(self, index: int, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of a layer as they are steered, also where the router's own type could not hold them."""
        late, self._late[index] = self._late[index], None
        return logits if late is None else late.among(logits)

    def remove(self) -> None:
        """Take the wrappers off; only where nothing was compiled with them."""
        for router in self.routers:
            del router._compute_routing  # noqa: SLF001  the class's own method is back


def require_tappable(runner: Any, *, compiled: bool) -> None:
    """Raise MoetraceError, naming the layer, where a router cannot be seen."""
    layer, router = runner.layer_id, runner.router
    if runner.is_monolithic:
        raise MoetraceError(f"layer {layer}: a monolithic kernel routes inside; choose a modular MoE backend")
    if compiled and is_routed_outside(runner):
        raise MoetraceError(
            f"layer {layer}: vLLM runs this family by transformers' code, whose router can be seen uncompiled only; "
            "leave out --compile"
        )
    if not isinstance(router, BaseRouter):
        raise MoetraceError(f"layer {layer}: a router of type {type(router).__name__} cannot be tapped")
    if getattr(router, "num_fused_shared_experts", 0):
        raise MoetraceError(f"layer {layer}: shared experts are fused into the routing; turn that off in vLLM")
    if runner.moe_config.is_sequence_parallel:
        raise MoetraceError(f"layer {layer}: sequence-parallel MoE routes only a part of the tokens; turn it off")
