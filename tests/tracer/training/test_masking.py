"""Training with a mask: the masked experts move, and nothing else does, not by a bit."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.masked import (
    FAMILIES,
    Hits,
    assert_the_mask_moves_and_nothing_else,
    batch,
    changed_outside,
    masters,
    snapshot,
    some_experts,
    tiny,
    train,
    trained,
)
from tests.support.masks import mask_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_masked_experts_that_get_tokens_move_and_nothing_else_does(name: str, dtype: str, tmp_path: Path) -> None:
    assert_the_mask_moves_and_nothing_else(name, tmp_path, dtype)


def test_transformers_trainer_moves_the_mask_and_nothing_else(tmp_path: Path) -> None:
    """Its own AdamW with weight decay, gradient clipping, accumulation, checkpointing and autocast."""
    import torch
    from transformers import Trainer, TrainingArguments

    from moetrace.tracer.training import apply_mask

    model = tiny("gpt_oss", tmp_path / "model", "bfloat16")
    before = snapshot(model)
    apply_mask(model, mask_for(model, [(1, expert) for expert in range(0, 16, 2)]), train_router=True)
    started, texts = masters(model), batch(shape=(16, 24))
    settings = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
        learning_rate=1e-3,
        weight_decay=0.1,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=[{"input_ids": text, "labels": text} for text in texts])
    trainer.train()
    assert changed_outside(model, before) == []
    assert all(not torch.equal(master, started[key]) for key, master in masters(model).items())
    decayed = {group["weight_decay"]: len(group["params"]) for group in trainer.optimizer.param_groups}
    assert decayed == {0.1: 2 * 8 + 1, 0.0: 2 * 8 + 1}, "biases do not decay"
    assert trainer.optimizer.state.keys() == {each for each in model.parameters() if each.requires_grad}


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_slices_of_the_whole_models_gradients(name: str, tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import apply_mask
    from moetrace.tracer.training.masking import masking_of

    model, ids = tiny(name, tmp_path), batch(shape=(2, 16))
    references = [copy.deepcopy(model)]
    apply_mask(model, some_experts(model), train_router=True)
    model(input_ids=ids, labels=ids).loss.backward()
    if name != "llama4_text":  # the one family that has no other way to run its experts
        references.append(copy.deepcopy(references[0]))
        references[1].set_experts_implementation("grouped_mm")
    names = {id(parameter): path for path, parameter in model.named_parameters()}
    for reference in references:
        reference.requires_grad_(True)
        reference(input_ids=ids, labels=ids).loss.backward()
        compared = 0
        for key, place in masking_of(model).places.items():
            dense = reference.get_parameter(names[id(place.parameter)]).grad
            ours = masking_of(model).masters()[key].grad
            if ours is None:
                assert dense is None or not dense[place.expert].any()
            else:
                torch.testing.assert_close(ours, dense if place.expert is None else dense[place.expert])
                compared += 1
        assert compared >= len(masking_of(model).places) // 2


def test_only_masters_require_gradients_and_have_optimizer_state(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import apply_mask
    from moetrace.tracer.training.masking import masking_of

    model = tiny("olmoe", tmp_path)
    apply_mask(model, mask_for(model, [(1, 5), (2, 7)]))
    parameters = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert parameters == {
        f"model.layers.{layer}.mlp.experts.trained.{name}_{expert}"
        for layer, expert in ((1, 5), (2, 7))
        for name in ("gate_up_proj", "down_proj")
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = batch(shape=(4, 32))
    model(input_ids=ids, labels=ids).loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert norm > 0
    optimizer.step()
    moments = sum(each.numel() for state in optimizer.state.values() for each in state.values() if each.ndim)
    mask_size = sum(master.numel() for master in masking_of(model).masters().values())
    assert moments == 2 * mask_size == 2 * 2 * 3 * 64 * 96
    model.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["olmoe", "gpt_oss", "llama4_text"])
def test_no_tensor_of_a_step_is_as_large_as_a_fused_parameter(name: str, tmp_path: Path) -> None:
    """With so few tokens, only a dense gradient or a materialised parameter could be."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from moetrace.tracer.training import apply_mask
    from moetrace.tracer.training.loaded_model import describe

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, (tuple, list)) else (out,):
                new = hasattr(each, "numel") and not func.is_view and each.is_floating_point()
                self.size = max(self.size, each.numel()) if new else self.size
            return out

    def largest(model: Any) -> int:
        ids = batch()
        with Largest() as mode:
            model(input_ids=ids, labels=ids).loss.backward()
        return mode.size

    model = tiny(name, tmp_path)
    experts = next(iter(describe(model).experts.values()))
    fused = max(place.parameter.numel() for place in experts.places(0).values())
    dense = copy.deepcopy(model)
    dense.requires_grad_(False)
    for place in describe(dense).experts[experts.layer].places(0).values():
        place.parameter.requires_grad_(True)
    apply_mask(model, some_experts(model))
    assert largest(dense) >= fused > 4 * largest(model)


def test_training_goes_the_same_way_with_checkpointing_accumulation_and_generation_between(tmp_path: Path) -> None:
    """With SGD: AdamW makes a whole step of the sign of a gradient that is zero but for rounding."""
    import torch

    from moetrace.tracer.training import apply_mask

    plain = tiny("qwen3_moe", tmp_path)
    apply_mask(plain, some_experts(plain), train_router=True)
    odd, started = copy.deepcopy(plain), masters(plain)
    odd.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = batch(shape=(4, 16))
    for model, parts in ((plain, (ids,)), (odd, ids.chunk(2))):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            for part in parts:
                (model(input_ids=part, labels=part).loss / len(parts)).backward()
            optimizer.step()
            optimizer.zero_grad()
            if model is odd:
                model.eval().generate(ids[:1], max_new_tokens=2, do_sample=False)
                model.train()
    for key, master in masters(plain).items():
        torch.testing.assert_close(masters(odd)[key], master, rtol=1e-4, atol=1e-5)
    moved = [(master - started[key]).abs().max().item() for key, master in masters(plain).items()]
    assert min(moved) > 1e-3, "what hardly moves would be close whatever happens"


def test_under_autocast_gradients_are_those_of_the_whole_model_under_autocast(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import apply_mask
    from moetrace.tracer.training.masking import masking_of

    model, ids = tiny("gpt_oss", tmp_path), batch(shape=(2, 8))
    reference = copy.deepcopy(model)
    apply_mask(model, some_experts(model))
    for each in (model, reference):
        with torch.autocast("cpu", torch.bfloat16):
            loss = each(input_ids=ids, labels=ids).loss
        loss.backward()
    place = masking_of(model).places["layers.0.experts.2.gate_up_proj"]
    dense = reference.model.layers[0].mlp.experts.gate_up_proj.grad[2]
    ours = masking_of(model).masters()["layers.0.experts.2.gate_up_proj"].grad
    assert place.expert == 2
    assert ours.dtype == torch.float32
    assert ours.any()
    torch.testing.assert_close(ours, dense)


def test_updates_too_small_for_bfloat16_add_up_in_the_masters(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import apply_mask

    model = tiny("mixtral", tmp_path, "bfloat16")
    apply_mask(model, mask_for(model, [(0, expert) for expert in range(8)]))
    before = snapshot(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    small = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for _ in range(100):
        for parameter in small.values():
            parameter.grad = parameter.detach() * 0.1  # 1e-4 of each value a step: a fortieth of a bfloat16 step
        optimizer.step()
    after = snapshot(model)["model.layers.0.mlp.experts.down_proj"].float()
    ratio = (after / before["model.layers.0.mlp.experts.down_proj"].float()).nanmean()
    assert ratio == pytest.approx(0.99, abs=1e-3)
    assert {parameter.dtype for parameter in small.values()} == {torch.float32}


def test_a_slice_is_cast_once_a_forward(tmp_path: Path) -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from moetrace.tracer.training import apply_mask

    class Casts(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and out.shape == (2 * 96, 64) and out.dtype == torch.bfloat16:
                self.count += 1
            return out

    model = tiny("mixtral", tmp_path, "bfloat16")
    apply_mask(model, mask_for(model, [(1, expert) for expert in range(8)]))
    hits = Hits(model)
    with Casts() as casts:
        model(batch(shape=(4, 32)))
    assert casts.count == len({pair for pair in hits.pairs if pair[0] == 1}) == 8


def test_other_layers_keep_their_way_of_running_experts(tmp_path: Path) -> None:
    from moetrace.tracer.training import apply_mask, restore

    model = tiny("qwen3_moe", tmp_path)
    model.set_experts_implementation("grouped_mm")
    apply_mask(model, mask_for(model, [(1, 0)]))
    one, three = (model.model.layers[layer].mlp.experts.config for layer in (1, 3))
    assert (one._experts_implementation, three._experts_implementation) == ("eager", "grouped_mm")
    assert one.hidden_size == model.config.hidden_size
    assert model.config._experts_implementation == "grouped_mm"
    restore(model)
    assert model.model.layers[1].mlp.experts.config is three


def test_with_its_router_a_layer_learns_to_route_and_other_routers_stay(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import apply_mask

    model = tiny("ernie4_5_moe", tmp_path)
    before = snapshot(model)
    apply_mask(model, mask_for(model, [(2, 1)]), train_router=True)
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1), 3)
    changed = {name for name, tensor in snapshot(model).items() if not torch.equal(tensor, before[name])}
    assert "model.layers.2.mlp.gate.weight" in changed
    assert all(name.startswith(("model.layers.2.mlp.gate", "model.layers.2.mlp.experts")) for name in changed)
    assert "model.layers.2.mlp.gate.moe_statics.e_score_correction_bias" not in changed, "it has no gradient"


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_experts_that_are_modules_of_their_own_are_trained_alike(kind: str, tmp_path: Path) -> None:
    """The layout of transformers 4, in a Mixtral whose experts are the same."""
    import torch

    from moetrace.tracer.training import apply_mask, load_experts, restore, save_experts

    fused, ids = tiny("mixtral", tmp_path), batch(shape=(2, 16))
    modular = copy.deepcopy(fused)
    for layer in modular.model.layers:
        layer.mlp.experts = modular_experts(layer.mlp.experts, kind)
    before, untrained, moved = snapshot(modular), copy.deepcopy(modular), []
    for model in (fused, modular):
        apply_mask(model, mask_for(model, [(0, 1), (0, 2), (0, 3), (2, 3)]), train_router=True)
        started = masters(model)
        train(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1), 3)
        changed = [key for key, master in masters(model).items() if not torch.equal(master, started[key])]
        moved.append({tuple(key.split(".")[:4]) for key in changed})
    torch.testing.assert_close(modular(ids).logits, fused(ids).logits)
    assert changed_outside(modular, before) == []
    assert moved[0] == moved[1]
    assert len(moved[0]) >= 3
    assert {key for key in masters(modular) if key.startswith("layers.2")} == {
        *(f"layers.2.experts.3.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")),
        "layers.2.router.weight",
    }
    save_experts(modular, tmp_path / "experts.safetensors")
    load_experts(untrained, tmp_path / "experts.safetensors")
    assert torch.equal(untrained(ids).logits, modular(ids).logits)
    restore(modular)
    assert snapshot(modular).keys() == before.keys()


def modular_experts(fused: torch.nn.Module, kind: str) -> torch.nn.Module:
    """A fused experts module's experts as modules in a list or dictionary."""
    import torch
    from torch import nn

    class Expert(nn.Module):
        def __init__(self, gate_up: torch.Tensor, down: torch.Tensor) -> None:
            super().__init__()
            gate, up = gate_up.chunk(2)
            for name, weight in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
                linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                linear.weight = nn.Parameter(weight.detach().clone())
                self.add_module(name, linear)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.down_proj(nn.functional.silu(self.gate_proj(states)) * self.up_proj(states))

    def forward(self: Any, states: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(states)
        for number, expert in enumerate(self.children()):
            token, rank = (index == number).nonzero(as_tuple=True)
            if len(token):
                out.index_add_(0, token, expert(states[token]) * weights[token, rank, None])
        return out

    base = nn.ModuleList if kind == "list" else nn.ModuleDict
    experts = [Expert(*pair) for pair in zip(fused.gate_up_proj, fused.down_proj, strict=True)]
    given = experts if kind == "list" else {f"expert_{number}": expert for number, expert in enumerate(experts)}
    return type("Experts", (base,), {"forward": forward})(given)


def test_a_restored_model_is_an_ordinary_one_with_the_trained_values(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import restore

    model = tiny("gpt_oss", tmp_path / "untrained")
    modules, parameters = [name for name, _ in model.named_modules()], [name for name, _ in model.named_parameters()]
    masked = trained("gpt_oss", tmp_path / "model", train_router=True)
    logits, after = masked(batch()).logits, snapshot(masked)
    restore(masked)
    assert [name for name, _ in masked.named_modules()] == modules
    assert [name for name, _ in masked.named_parameters()] == parameters
    assert all(parameter.requires_grad for parameter in masked.parameters())
    assert isinstance(masked.model.layers[0].mlp.experts.gate_up_proj, torch.nn.Parameter)
    assert torch.equal(masked(batch()).logits, logits)
    assert all(torch.equal(tensor, after[name]) for name, tensor in masked.state_dict().items())


def test_what_required_no_gradients_before_requires_none_after(tmp_path: Path) -> None:
    from moetrace.tracer.training import apply_mask, restore

    model = tiny("mixtral", tmp_path)
    model.lm_head.requires_grad_(False)
    apply_mask(model, mask_for(model, [(0, 0)]))
    restore(model)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["lm_head.weight"]


def test_write_back_rounds_the_masters_into_the_ordinary_parameters(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import write_back
    from moetrace.tracer.training.masking import masking_of

    model = trained("mixtral", tmp_path, "bfloat16")
    place = masking_of(model).places["layers.0.experts.0.down_proj"]
    master = masters(model)["layers.0.experts.0.down_proj"]
    assert not torch.equal(place.tensor, master.bfloat16())
    write_back(model)
    assert torch.equal(place.tensor, master.bfloat16())
