"""Trained copies of experts, as Parameters of their own, and the views that put them in their module's way.

A module whose experts are fused has one Parameter `[num_experts, ...]` for all of them. It stays where it is, frozen,
so that names, `.to()` and `state_dict()` stay. Beside it the module gets a submodule, `TrainedTensors`, with a
Parameter for each trained expert; and in front of it, as an instance attribute, a view that looks like the Parameter:
`view[expert]` is the trained copy of a trained expert, and the frozen slice of another. So no gradient, no weight decay
and no optimizer state exists for anything but the trained slices.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.expert_places import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

SUBMODULE = "trained"


class TrainedTensors(nn.Module):
    """The trained copies that a module has: masters in float32, or in the module's dtype where that is wider.

    Its Parameters are named `gate_up_proj_17` (an expert's slice) or `weight` (a whole Parameter), and do not stand in
    a state dict: their values stand in the module's own Parameters there.
    """

    def __init__(self, holder: nn.Module, places: Iterable[Place]) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}
        for place in places:
            name = place.name if place.expert is None else f"{place.name}_{place.expert}"
            self.places[name] = place
            dtype = torch.promote_types(place.parameter.dtype, torch.float32)
            self.register_parameter(name, nn.Parameter(place.tensor.to(dtype, copy=True).contiguous()))
        for name in {place.name for place in self.places.values()}:
            view: _View = WholeView(holder, name) if name in self.places else SlicedView(holder, name)
            holder.__dict__[name] = view
        holder.add_module(SUBMODULE, self)
        typed: Any = holder  # torch leaves these three without types
        self.hooks = (
            typed.register_state_dict_pre_hook(_write_back_before_saving),
            typed.register_load_state_dict_pre_hook(_write_back_before_loading),
            typed.register_load_state_dict_post_hook(_read_after_loading),
        )

    def master(self, place: Place) -> nn.Parameter:
        """Return the trained copy of a place."""
        return self.get_parameter(place.name if place.expert is None else f"{place.name}_{place.expert}")

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the trained values into the module's own Parameters."""
        for name, place in self.places.items():
            place.tensor.copy_(self.get_parameter(name))

    @torch.no_grad()
    def read(self) -> None:
        """Take over what the module's own Parameters say, where it is not what the trained values round to."""
        for name, place in self.places.items():
            master, tensor = self.get_parameter(name), place.tensor
            master.copy_(torch.where(master.to(tensor.dtype) == tensor, master, tensor.to(master.dtype)))

    def remove_from(self, holder: nn.Module) -> None:
        """Make the module an ordinary one again; what was not written back is lost."""
        for hook in self.hooks:
            hook.remove()
        for name in {place.name for place in self.places.values()}:
            del holder.__dict__[name]
        delattr(holder, SUBMODULE)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:  # noqa: FBT001, FBT002
        def keep_dtype(tensor: torch.Tensor) -> torch.Tensor:
            tried = fn(tensor.new_empty(0))
            return fn(tensor) if tried.dtype == tensor.dtype else tensor.to(tried.device)

        return super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001
        """Add nothing: the values stand in the module's own Parameters."""

    def _load_from_state_dict(self, *_: Any) -> None:
        """Expect nothing."""


def trained_tensors(holder: nn.Module) -> TrainedTensors:
    """Return the trained copies of a module that has some."""
    found = holder._modules[SUBMODULE]  # noqa: SLF001  as plain as it gets: every forward comes through here
    assert isinstance(found, TrainedTensors)  # noqa: S101
    return found


class _View:
    """Stands before a Parameter of a module and has the trained values in it.

    Whatever is not known to it is done to the whole tensor, made anew with the trained values: right, differentiable,
    and as large as the Parameter. Writing to it is refused, as it would be lost.
    """

    _holder: nn.Module
    _name: str

    def __init__(self, holder: nn.Module, name: str) -> None:
        self.__dict__.update(_holder=holder, _name=name)

    @property
    def _frozen(self) -> torch.Tensor:
        return Place(self._holder, self._name).parameter.detach()

    @property
    def _trained(self) -> TrainedTensors:
        return trained_tensors(self._holder)

    @property
    def shape(self) -> torch.Size:
        return self._frozen.shape

    @property
    def dtype(self) -> torch.dtype:
        return self._frozen.dtype

    @property
    def device(self) -> torch.device:
        return self._frozen.device

    @property
    def ndim(self) -> int:
        return self._frozen.ndim

    def dim(self) -> int:
        return self._frozen.ndim

    def numel(self) -> int:
        return self._frozen.numel()

    def size(self, *dim: int) -> torch.Size | int:
        return self._frozen.size(*dim)

    def __len__(self) -> int:
        return len(self._frozen)

    def whole(self) -> torch.Tensor:
        """Return the whole tensor with the trained values in it, in the Parameter's dtype."""
        raise NotImplementedError

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.whole()[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in {"_holder", "_name"}:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        if name in {"data", "grad"} or name.endswith("_"):
            raise _written(f"{self._name}.{name}")
        return getattr(self.whole(), name)

    def __setattr__(self, name: str, _value: Any) -> None:
        raise _written(f"{self._name}.{name}")

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        in_place = name.endswith("_") and not name.endswith("__")
        if isinstance(kwargs.get("out"), _View) or (in_place and args and isinstance(args[0], _View)):
            raise _written(name)
        return func(*tree_map(_whole, args), **tree_map(_whole, kwargs))


class WholeView(_View):
    """The view of a Parameter that is trained as a whole: a router's, or that of an expert in a ModuleList."""

    def whole(self) -> torch.Tensor:
        """Return the trained copy in the Parameter's dtype."""
        return self._trained.get_parameter(self._name).to(self.dtype)


class SlicedView(_View):
    """The view of a fused Parameter, `[num_experts, ...]`, some experts of which are trained.

    The eager forward of transformers takes each hit expert's slice once, so that each is cast once a forward.
    """

    def __getitem__(self, index: Any) -> torch.Tensor:
        expert = self._expert(index)
        return self.whole()[index] if expert is None else self._slice(expert)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self._slice(expert) for expert in range(len(self)))

    def whole(self) -> torch.Tensor:
        """Return a copy of the frozen Parameter with the trained slices in it."""
        experts = self._experts()
        slices = torch.stack([self._slice(expert) for expert in experts])
        return self._frozen.index_copy(0, torch.tensor(experts, device=self.device), slices)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # Llama 4 multiplies all experts at once; in pieces no gradient of the frozen ones comes into being.
        if func in {torch.bmm, torch.Tensor.bmm} and not kwargs and isinstance(args[1], SlicedView):
            return args[1].bmm_after(_whole(args[0]))
        return super().__torch_function__(func, types, args, kwargs)

    def bmm_after(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `torch.bmm(inputs, self)`; inputs is [num_experts, n, m], all zero for an expert without tokens.

        Such an expert gets no gradient, as in the families whose forward leaves it out.
        """
        pieces, start, frozen = [], 0, self._frozen
        for expert in self._experts():
            if start < expert:
                pieces.append(torch.bmm(inputs[start:expert], frozen[start:expert]))
            weight = self._slice(expert) if inputs[expert].any() else frozen[expert]
            pieces.append(torch.bmm(inputs[expert : expert + 1], weight[None]))
            start = expert + 1
        if start < len(self):
            pieces.append(torch.bmm(inputs[start:], frozen[start:]))
        return torch.cat(pieces)

    def _experts(self) -> list[int]:
        places = self._trained.places.values()
        return sorted(place.expert for place in places if place.name == self._name and place.expert is not None)

    def _slice(self, expert: int) -> torch.Tensor:
        if (name := f"{self._name}_{expert}") in self._trained.places:
            return self._trained.get_parameter(name).to(self.dtype)
        return self._frozen[expert]

    def _expert(self, index: Any) -> int | None:
        """Return the expert that an index selects, None where it is not the index of one; raise IndexError outside."""
        if isinstance(index, torch.Tensor):
            if index.ndim or index.dtype == torch.bool:
                return None
        elif isinstance(index, bool):
            return None
        try:
            expert = operator.index(index)
        except TypeError:
            return None
        if not -len(self) <= expert < len(self):
            raise IndexError(f"expert {expert} of {len(self)}")
        return expert % len(self)


def _written(what: str) -> TrainingError:
    return TrainingError(f"{what}: a masked parameter cannot be written to; call restore(model) first")


def _whole(value: Any) -> Any:
    return value.whole() if isinstance(value, _View) else value


def _write_back_before_saving(holder: nn.Module, _prefix: str, _keep_vars: bool) -> None:  # noqa: FBT001
    trained_tensors(holder).write_back()


def _write_back_before_loading(
    holder: nn.Module, _state_dict: Any, _prefix: str, local_metadata: Mapping[str, Any], *_: Any
) -> None:
    """Keep the trained values where the state dict has none."""
    if local_metadata.get("assign_to_params_buffers"):
        raise TrainingError("load_state_dict(assign=True) cannot be used on a masked model; leave assign out")
    trained_tensors(holder).write_back()


def _read_after_loading(holder: nn.Module, _incompatible_keys: Any) -> None:
    trained_tensors(holder).read()
