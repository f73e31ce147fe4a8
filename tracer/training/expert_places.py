"""Where a model keeps the parameters of each expert and of each router, found by structure, not by family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from moetrace.tracer.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTERS = ("gate", "router")  # what transformers calls the router of a MoE block
TRAINABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Place:
    """A Parameter of a module, or one expert's slice of it: `parameter[expert]`, where `expert` is not None."""

    module: nn.Module
    name: str
    expert: int | None = None

    @property
    def parameter(self) -> nn.Parameter:
        """The whole Parameter; looked up each time, because `.to()` may replace it."""
        found = self.module._parameters[self.name]  # noqa: SLF001  an attribute of the same name may stand in front
        if found is None:
            raise TrainingError(f"{type(self.module).__name__} has lost its parameter {self.name}")
        return found

    @property
    def tensor(self) -> torch.Tensor:
        """What is trained, without gradient, sharing the Parameter's memory."""
        data = self.parameter.data
        return data if self.expert is None else data[self.expert]


@dataclass(frozen=True)
class LayerExperts:
    """The experts of a decoder layer.

    - layer: the decoder layer's own index; path: of `module` in the model
    - module: holds fused parameters, whose first dimension is the expert, or one child for each expert
    - block: the MoE block that holds the experts and their router
    """

    layer: int
    path: str
    module: nn.Module
    block: nn.Module
    num_experts: int

    def places(self, expert: int) -> dict[str, Place]:
        """Return an expert's tensors by name: `down_proj` where layers are fused, else `down_proj.weight`."""
        if isinstance(self.module, (nn.ModuleList, nn.ModuleDict)):
            own = list(self.module.children())[expert]
            return dict(_places(own))
        return {name: Place(self.module, name, expert) for name in _fused(self.module, self.num_experts)}

    def router_places(self) -> dict[str, Place]:
        """Return the router's Parameters by name; a selection bias that is a buffer is not one of them.

        Raises TrainingError where the block has no router.
        """
        found = {
            name: place
            for child, module in self.block.named_children()
            if child in ROUTERS
            for name, place in _places(module)
        }
        if not found:
            known = ", ".join(name for name, _ in self.block.named_children())
            raise TrainingError(f"layer {self.layer}: no router among the parts of its MoE block ({known})")
        return found


def find_experts(model: nn.Module, num_layers: int, num_experts: int) -> dict[int, LayerExperts]:
    """Return the experts of each MoE layer by the decoder layer's index, ascending.

    A layer's experts are its submodule with 3-D parameters whose first dimension is the number of experts
    (transformers 5), or its ModuleList or ModuleDict of that length.

    Raises TrainingError where there are none, or more than one module could be a layer's experts.
    """
    found = []
    for path, layers in model.named_modules():
        if isinstance(layers, nn.ModuleList) and len(layers) == num_layers:
            experts = [_layer_experts(index, f"{path}.{index}", each, num_experts) for index, each in enumerate(layers)]
            if any(experts):
                found.append((path, {each.layer: each for each in experts if each}))
    if len(found) != 1:
        listed = ", ".join(path for path, _ in found) or "none"
        raise TrainingError(
            f"{type(model).__name__}: looked for one stack of {num_layers} decoder layers with {num_experts} experts "
            f"in a layer, found {listed}; this layout is not supported"
        )
    return found[0][1]


def _layer_experts(index: int, path: str, layer: nn.Module, num_experts: int) -> LayerExperts | None:
    found = [(name, module) for name, module in layer.named_modules() if name and _are_experts(module, num_experts)]
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise TrainingError(f"layer {index}: more than one module could be its experts ({names}); not supported")
    if not found:
        return None
    name, module = found[0]
    block = layer.get_submodule(name.rpartition(".")[0]) if "." in name else layer
    return LayerExperts(index, f"{path}.{name}", module, block, num_experts)


def _are_experts(module: nn.Module, num_experts: int) -> bool:
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        children = list(module.children())
        return len(children) == num_experts and all(next(child.parameters(), None) is not None for child in children)
    if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001  its kernel is 3-D, too
        return False
    return any(module._parameters[name].ndim == 3 for name in _fused(module, num_experts))  # type: ignore[union-attr]  # noqa: SLF001


def _fused(module: nn.Module, num_experts: int) -> list[str]:
    own = module._parameters.items()  # noqa: SLF001  a module's own, without those of its children
    return [name for name, parameter in own if parameter is not None and parameter.shape[:1] == (num_experts,)]


def _places(module: nn.Module) -> Iterator[tuple[str, Place]]:
    for path, child in module.named_modules():
        for name, parameter in child._parameters.items():  # noqa: SLF001
            if parameter is not None:
                yield f"{path}.{name}".removeprefix("."), Place(child, name)


def check_trainable(key: str, place: Place) -> None:
    """Raise TrainingError, naming the tensor by its key, where it is quantised or its values are not in memory."""
    if place.parameter.is_meta:
        raise TrainingError(f"{key} is offloaded; load the model without offloading")
    if place.parameter.dtype not in TRAINABLE:
        raise TrainingError(
            f"{key} is kept in {place.parameter.dtype}; quantised experts cannot be trained, load them dequantised"
        )
