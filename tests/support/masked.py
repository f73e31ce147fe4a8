"""Tiny models in training with a mask: what tests of it share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.checkpoints import make_checkpoint
from tests.support.families import TINY, VOCABULARY
from tests.support.masks import mask_for

if TYPE_CHECKING:
    from pathlib import Path

    import torch

FAMILIES = [name for name in TINY if not TINY[name].quantize]


def tiny(name: str, folder: Path, dtype: str = "float32") -> Any:
    """A family's tiny model, with eager experts."""
    model = make_checkpoint(name, folder, dtype=dtype)
    model.set_experts_implementation("eager")
    return model


def some_experts(model: torch.nn.Module) -> dict[str, Any]:
    """A mask of every other expert of the first and the last MoE layer: of a few tokens, some of them get none."""
    from moetrace.tracer.training.loaded_model import describe

    found = describe(model)
    layers = sorted({min(found.experts), max(found.experts)})
    return mask_for(model, [(layer, expert) for layer in layers for expert in range(0, found.num_experts, 2)])


def batch(seed: int = 0, shape: tuple[int, int] = (1, 3), device: torch.device | str = "cpu") -> torch.Tensor:
    """Token ids of a few texts."""
    import torch

    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed)).to(device)


def train(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Take steps over the same three tokens."""
    ids = batch(device=model.device)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def trained(name: str, folder: Path, dtype: str = "float32", *, train_router: bool = False) -> Any:
    """A tiny model that has been trained with a mask for a few steps, with momentum and weight decay."""
    import torch

    from moetrace.tracer.training import apply_mask

    model = tiny(name, folder, dtype)
    apply_mask(model, some_experts(model), train_router=train_router)
    train(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1), 3)
    return model


def masters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of a masked model's masters."""
    from moetrace.tracer.training.masking import masking_of

    return {key: master.detach().clone() for key, master in masking_of(model).masters().items()}


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's state dict."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed_outside(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """The names in the state dict that differ from before in anything but what the mask trains."""
    import torch

    from moetrace.tracer.training.masking import masking_of

    after = snapshot(model)
    assert after.keys() == before.keys()
    names = {id(parameter): path for path, parameter in model.named_parameters()}
    for place in masking_of(model).places.values():
        path = names[id(place.parameter)]
        index = slice(None) if place.expert is None else place.expert
        after[path][index] = before[path][index]
    return [path for path in before if not torch.equal(before[path], after[path])]


def assert_the_mask_moves_and_nothing_else(name: str, folder: Path, dtype: str, device: str = "cpu") -> None:
    """Train a tiny model with a mask for twenty steps.

    Masked experts that get tokens must have moved, and nothing else by a bit; the weights are the masters, rounded.
    """
    import torch

    from moetrace.tracer.training import apply_mask
    from moetrace.tracer.training.masking import masking_of

    model = tiny(name, folder, dtype).to(device)
    ids = batch(device=device)
    before, unmasked = snapshot(model), model(ids).logits
    apply_mask(model, some_experts(model))
    assert torch.equal(model(ids).logits, unmasked)

    places, started, hits = masking_of(model).places, masters(model), Hits(model)
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1), 20)

    hit = {key for key, place in places.items() if (int(key.split(".")[1]), place.expert) in hits.pairs}
    assert {key for key, master in masters(model).items() if not master.equal(started[key])} == hit
    assert hit
    assert len(hit) < len(places) or name == "flex_olmo"  # five of its seven experts get each token
    assert changed_outside(model, before) == []
    assert all(torch.equal(place.tensor, masters(model)[key].to(model.dtype)) for key, place in places.items())
    assert {tensor.device.type for tensor in masters(model).values()} == {torch.device(device).type}


class Hits:
    """Listens to experts modules: the (layer, expert) pairs that tokens were sent to."""

    def __init__(self, model: torch.nn.Module) -> None:
        from moetrace.tracer.training.loaded_model import describe

        self.pairs: set[tuple[int, int]] = set()
        self.num_experts = (found := describe(model)).num_experts
        for layer, experts in found.experts.items():
            experts.module.register_forward_pre_hook(self.listener(layer), with_kwargs=True)

    def listener(self, layer: int) -> Any:
        """A hook that notes the experts among an experts module's arguments."""

        def listen(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *kwargs.values()]
            chosen = [value for value in given if not value.is_floating_point()]
            if not chosen:  # Llama 4 gives every expert every token, times zero where it was not chosen
                chosen = [given[0].reshape(self.num_experts, -1).any(dim=1).nonzero()]
            self.pairs |= {(layer, expert) for expert in chosen[0].unique().tolist()}

        return listen
