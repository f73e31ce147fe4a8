"""Training nothing but the experts of a mask: what is put into a model for it, and how it is taken out again."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.expert_places import LayerExperts, Place, check_trainable
from moetrace.tracer.training.loaded_model import LoadedModel, check_fits, describe
from moetrace.tracer.training.trained_tensors import TrainedTensors, trained_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn
    from torch.utils.hooks import RemovableHandle

STATE = "moetrace_masking"


@dataclass(frozen=True)
class Masking:
    """What was put into a model.

    - places: the trained tensors by key, `layers.3.experts.17.gate_up_proj` or `layers.3.router.weight`
    - holders: the modules that hold them
    - configs: the config of each experts module that was made to run its eager forward, as it was
    - trainable: the names of the parameters that required gradients before
    - loaded: what the model said of itself when the mask was checked against it
    - hook: refuses state dicts that name experts as they stand on disk
    """

    mask: Mapping[str, Any]
    train_router: bool
    loaded: LoadedModel
    places: dict[str, Place]
    holders: tuple[nn.Module, ...]
    configs: tuple[tuple[nn.Module, Any], ...]
    trainable: frozenset[str]
    hook: RemovableHandle

    def masters(self) -> dict[str, nn.Parameter]:
        """Return the trained copies by key: float32, or float64 in a float64 model."""
        return {key: trained_tensors(place.module).master(place) for key, place in self.places.items()}


def apply_mask(model: nn.Module, mask: Mapping[str, Any], *, train_router: bool = False) -> None:
    """Freeze a transformers model but for the experts of a mask, in place.

    Each tensor of a masked expert (its slice `[2I, H]` of a fused `[E, 2I, H]`, or a parameter of its module) gets a
    float32 master, a Parameter of its own named `...experts.trained.gate_up_proj_17`, which the forward casts to the
    model's dtype. `model.parameters()` yields the masters, and they alone require gradients: gradients and optimizer
    state exist for them only, and every other value of the model stays bit for bit as it is.

    An expert that got no token in a step has no gradient (None, not zero), so that torch's optimizers leave it, its
    moments and its weight decay out of that step. For the same reason DistributedDataParallel needs
    `find_unused_parameters=True`, which transformers' Trainer sets unless gradients are checkpointed.

    Layers with masked experts run transformers' eager experts; the others run what they ran. `state_dict()` and
    `save_pretrained()` write the trained values, rounded to the model's dtype, under the model's ordinary names.
    `load_state_dict()` takes those, too; a master that already rounds to what is loaded keeps its bits.

    - train_router: train also the routers of the layers that have masked experts: all Parameters of them, with
      selection biases that are Parameters (no gradient reaches a bias that only selects)

    Raises MaskError where the mask is damaged or for another model, TrainingError where it is empty, the model has one
    already, or the layout of its experts is not supported; the model is then as it was.
    """
    if masking_of(model) is not None:
        raise TrainingError("the model has a mask already; call restore(model) first")
    loaded, mask = describe(model), copy.deepcopy(mask)
    check_fits(mask, loaded)
    places = trained_places(mask, loaded, train_router=train_router)
    trainable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    model.requires_grad_(False)
    by_holder: dict[nn.Module, list[Place]] = {}
    for place in places.values():
        by_holder.setdefault(place.module, []).append(place)
    for holder, own in by_holder.items():
        TrainedTensors(holder, own)
    layers = sorted({item["layer"] for item in mask["experts"]})
    configs = tuple(_make_eager(loaded.experts[layer].module for layer in layers))
    typed: Any = model  # torch leaves this one without types
    hook = typed.register_load_state_dict_pre_hook(_refuse_names_on_disk)
    model.__dict__[STATE] = Masking(mask, train_router, loaded, places, tuple(by_holder), configs, trainable, hook)


def masking_of(model: nn.Module) -> Masking | None:
    """Return what `apply_mask` put into a model, None where it has no mask."""
    found = model.__dict__.get(STATE)
    return found if isinstance(found, Masking) else None


def trained_places(mask: Mapping[str, Any], loaded: LoadedModel, *, train_router: bool) -> dict[str, Place]:
    """Return what a mask trains, by key.

    Raises TrainingError where a tensor is quantised or offloaded, or a router is wanted and there is none.
    """
    found: dict[str, Place] = {}
    for item in mask["experts"]:
        experts: LayerExperts = loaded.experts[item["layer"]]
        for name, place in experts.places(item["expert"]).items():
            found[f"layers.{item['layer']}.experts.{item['expert']}.{name}"] = place
    for layer in sorted({item["layer"] for item in mask["experts"]}) if train_router else ():
        for name, place in loaded.experts[layer].router_places().items():
            found[f"layers.{layer}.router.{name}"] = place
    for key, place in found.items():
        check_trainable(key, place)
    return found


def write_back(model: nn.Module) -> None:
    """Round the trained values into the model's ordinary parameters, and go on training.

    Raises TrainingError where the model has no mask.
    """
    for holder in _required(model).holders:
        trained_tensors(holder).write_back()


def restore(model: nn.Module) -> None:
    """Write the trained values back and make the model an ordinary one again; what required gradients does so again.

    Raises TrainingError where the model has no mask.
    """
    masking = _required(model)
    write_back(model)
    for holder in masking.holders:
        trained_tensors(holder).remove_from(holder)
    masking.hook.remove()
    for module, config in masking.configs:
        module.config = config
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in masking.trainable)
    del model.__dict__[STATE]


class EagerConfig:
    """A config that says `eager` for the experts implementation, and else what the model's config says."""

    _experts_implementation = "eager"

    def __init__(self, config: Any) -> None:
        self.shared = config

    def __getattr__(self, name: str) -> Any:
        if name == "shared" or name.startswith("__"):  # `shared` is not there while this is copied
            raise AttributeError(name)
        return getattr(self.shared, name)


def _make_eager(modules: Iterable[nn.Module]) -> Iterable[tuple[nn.Module, Any]]:
    """Have experts modules run their own forward; transformers looks up which one in the config that a module holds."""
    for module in modules:
        config = getattr(module, "config", None)
        if config is not None:
            module.config = EagerConfig(config)  # type: ignore[assignment]
            yield module, config


def _refuse_names_on_disk(model: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a state dict that is not the model's own and leaves trained experts out: they would silently stay.

    transformers gives experts other names on disk than in the model, and its Trainer resumes with `strict=False`.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    known = parameters.keys() | dict(model.named_buffers(remove_duplicate=False)).keys()
    masking = _required(model)
    trained = {id(place.parameter) for place in masking.places.values()}
    missing = [name for name, each in parameters.items() if id(each) in trained and prefix + name not in state_dict]
    unknown = [name for name in state_dict if name.startswith(prefix) and name.removeprefix(prefix) not in known]
    if missing and unknown:
        raise TrainingError(
            f"this state dict has no {missing[0]}, which the mask trains, and names the model has not ({unknown[0]}), "
            "such as those on disk; load trained experts with load_experts"
        )


def _required(model: nn.Module) -> Masking:
    masking = masking_of(model)
    if masking is None:
        raise TrainingError("the model has no mask; call apply_mask first")
    return masking
