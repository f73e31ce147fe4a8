"""Training with a mask: the masked experts move, and nothing else does, not by a bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.checkpoints import make_checkpoint
from tests.families import TINY, VOCABULARY
from tests.masks import mask_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

FAMILIES = [name for name in TINY if not TINY[name].quantize]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(name: str, folder: Path, dtype: str = "float32") -> Any:
    model = make_checkpoint(name, folder, dtype=dtype)
    model.set_experts_implementation("eager")
    return model


def some_experts(model: torch.nn.Module) -> dict[str, Any]:
    """A mask of every other expert of the first and the last MoE layer: some of them will get no token."""
    from tracer.training.model_facts import describe

    found = describe(model)
    layers = sorted({min(found.experts), max(found.experts)})
    return mask_for(model, [(layer, expert) for layer in layers for expert in range(0, found.num_experts, 2)])


def batch(seed: int, shape: tuple[int, int] = (1, 3)) -> torch.Tensor:
    import torch

    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def train(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Steps over three tokens, so that some masked experts never get one."""
    for _ in range(steps):
        ids = batch(0)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


class Hits:
    """Listens to experts modules: the (layer, expert) pairs that tokens were sent to."""

    def __init__(self, model: torch.nn.Module) -> None:
        from tracer.training.model_facts import describe

        self.pairs: set[tuple[int, int]] = set()
        self.num_experts = (found := describe(model)).num_experts
        for layer, experts in found.experts.items():
            experts.module.register_forward_pre_hook(self.listener(layer), with_kwargs=True)

    def listener(self, layer: int) -> Any:
        def listen(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *kwargs.values()]
            chosen = [value for value in given if not value.is_floating_point()]
            if not chosen:  # Llama 4 gives every expert every token, times zero where it was not chosen
                chosen = [given[0].reshape(self.num_experts, -1).any(dim=1).nonzero()]
            self.pairs |= {(layer, expert) for expert in chosen[0].unique().tolist()}

        return listen


@pytest.mark.parametrize("name", FAMILIES)
def test_masked_experts_that_get_tokens_move_and_nothing_else_does(name: str, tmp_path: Path) -> None:
    import torch

    from tracer.training import apply_mask
    from tracer.training.masking import masking_of

    model = tiny(name, tmp_path)
    mask = some_experts(model)
    before, unmasked = snapshot(model), model(batch(0)).logits
    apply_mask(model, mask)
    assert torch.equal(model(batch(0)).logits, unmasked)

    places, masters = masking_of(model).places, masking_of(model).masters()
    started, hits = {key: master.clone() for key, master in masters.items()}, Hits(model)
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1), 20)

    hit = {key for key, place in places.items() if (int(key.split(".")[1]), place.expert) in hits.pairs}
    assert {key for key, master in masters.items() if not master.equal(started[key])} == hit
    assert hit
    assert len(hit) < len(places) or name == "flex_olmo"  # five of seven experts get each of its tokens
    assert changed_outside(model, before) == []


def changed_outside(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """The names in the state dict that differ from before in anything but masked slices."""
    import torch

    from tracer.training.masking import masking_of

    after = snapshot(model)
    assert after.keys() == before.keys()
    names = {id(parameter): path for path, parameter in model.named_parameters()}
    for place in masking_of(model).places.values():
        path = names[id(place.parameter)]
        index = slice(None) if place.expert is None else place.expert
        assert torch.equal(after[path][index], place.tensor)
        after[path][index] = before[path][index]
    return [path for path in before if not torch.equal(before[path], after[path])]
