"""A masked model in other hands: as tensors, state dicts, copies and other dtypes; and what a mask is refused for."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.store.mask import MaskError
from tests.support.masked import batch, masters, snapshot, some_experts, tiny, trained
from tests.support.masks import mask_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def trained_view(folder: Path, dtype: str = "float32") -> tuple[Any, Any]:
    """The view of a trained, fused parameter, and the tensor that it should be, without gradient."""
    model = trained("mixtral", folder, dtype)
    dense = model.state_dict()["model.layers.0.mlp.experts.down_proj"].clone()
    view = model.model.layers[0].mlp.experts.down_proj
    view._frozen.data[::2] = 0  # what is frozen of trained experts is stale, and nobody may see it
    return view, dense


@pytest.mark.parametrize(
    "use",
    [
        lambda weight: weight[3],
        lambda weight: weight[2],
        lambda weight: weight[-2],
        lambda weight: weight[1:5],
        lambda weight: weight[2, :4],
        lambda weight: weight[..., 0],
        lambda weight: weight[[0, 1, 2]],
        lambda weight: weight[True],
        lambda weight: weight.transpose(1, 2),
        lambda weight: weight.sum(),
        lambda weight: weight.shape,
        lambda weight: (weight.dtype, weight.device, weight.ndim, weight.dim(), weight.numel(), weight.size(1)),
        len,
        lambda weight: list(weight)[4],
        lambda weight: weight.detach().clone(),
    ],
)
def test_a_view_gives_what_the_parameter_would(use: Callable[[Any], Any], tmp_path: Path) -> None:
    import torch

    view, dense = trained_view(tmp_path, "bfloat16")
    ours, theirs = use(view), use(dense)
    assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs


def test_a_view_is_indexed_by_tensors_and_taken_by_functions_like_the_parameter(tmp_path: Path) -> None:
    import torch
    from torch.nn import functional

    view, dense = trained_view(tmp_path)
    states = torch.randn(8, 5, dense.shape[1], generator=torch.Generator().manual_seed(0))
    for index in (torch.tensor(2), torch.tensor([2]), torch.tensor([0, 1, 2]), torch.arange(8) > 3):
        assert torch.equal(view[index], dense[index])
    for index in (8, -9, torch.tensor(8)):
        with pytest.raises(IndexError):
            view[index]
    assert torch.equal(torch.matmul(states, view), torch.matmul(states, dense))
    assert torch.equal(states @ view, states @ dense)
    torch.testing.assert_close(torch.bmm(states, view), torch.bmm(states, dense))
    assert torch.equal(torch.stack([view, view]), torch.stack([dense, dense]))
    assert torch.equal(
        functional.linear(states[0, :, :1].repeat(1, dense.shape[2]), view[2]),
        functional.linear(states[0, :, :1].repeat(1, dense.shape[2]), dense[2]),
    )


def test_gradients_come_through_a_view_taken_as_a_whole(tmp_path: Path) -> None:
    import torch

    view, dense = trained_view(tmp_path)
    weight = torch.randn(dense.shape, generator=torch.Generator().manual_seed(0))
    view._trained.zero_grad()
    (view.transpose(1, 2) * weight.transpose(1, 2)).sum().backward()
    for expert in (0, 2, 4, 6):
        assert torch.equal(view._trained.get_parameter(f"down_proj_{expert}").grad, weight[expert])


def test_writing_to_a_view_is_refused_because_it_would_be_lost(tmp_path: Path) -> None:
    import torch

    view, dense = trained_view(tmp_path)
    for write in (
        lambda: view.mul_(2),
        lambda: view.data,
        lambda: setattr(view, "data", dense),
        lambda: torch.nn.init.zeros_(view),
        lambda: torch.relu_(view),
        lambda: torch.add(dense, 1, out=view),
    ):
        with pytest.raises(MoetraceError, match=r"cannot be written to; call restore\(model\) first"):
            write()
    with pytest.raises(TypeError):
        view[0] = 0
    assert torch.equal(view.whole(), dense)


def test_a_masked_model_run_with_another_experts_implementation_still_uses_the_trained_values(tmp_path: Path) -> None:
    import torch
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    from moetrace.tracer.training import apply_mask

    model = tiny("qwen3_moe", tmp_path)
    apply_mask(model, some_experts(model))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    experts = model.model.layers[1].mlp.experts
    states = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    weights, index = torch.rand(6, 16, generator=torch.Generator().manual_seed(1)).topk(4)
    eager = experts(states, index, weights)
    for name in ("grouped_mm", "batched_mm"):
        other = ALL_EXPERTS_FUNCTIONS[name](experts, states, index, weights)
        torch.testing.assert_close(other, eager, rtol=1e-4, atol=1e-5)
        assert other.requires_grad


def test_saving_between_forward_and_backward_harms_neither(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training.masking import masking_of

    model, ids = trained("mixtral", tmp_path), batch(shape=(2, 8))
    grads = []
    for save in (False, True):
        model.zero_grad()
        with torch.no_grad():
            for master in masking_of(model).masters().values():
                master.add_(0 if save else 0.01)
        loss = model(input_ids=ids, labels=ids).loss
        if save:
            model.state_dict()
        loss.backward()
        grads.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(grads[0]) > 4
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


def test_a_state_dict_goes_round_without_touching_the_masters(tmp_path: Path) -> None:
    import torch

    model = trained("gpt_oss", tmp_path, "bfloat16", train_router=True)
    before = masters(model)
    assert any(not torch.equal(master, master.bfloat16().float()) for master in before.values())
    model.load_state_dict(model.state_dict())
    assert all(torch.equal(master, before[key]) for key, master in masters(model).items())


def test_loading_a_state_dict_sets_the_masters_that_it_names_and_keeps_the_others(tmp_path: Path) -> None:
    import torch

    untrained = snapshot(tiny("mixtral", tmp_path / "untrained"))
    model = trained("mixtral", tmp_path / "model")
    before = masters(model)
    name = "model.layers.0.mlp.experts.down_proj"
    model.load_state_dict({name: untrained[name]}, strict=False)
    after = masters(model)
    assert torch.equal(after["layers.0.experts.2.down_proj"], untrained[name][2])
    assert not torch.equal(before["layers.0.experts.2.down_proj"], untrained[name][2])
    kept = [key for key in before if not (key.startswith("layers.0") and key.endswith("down_proj"))]
    assert all(torch.equal(after[key], before[key]) for key in kept)
    model.load_state_dict(untrained)
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in model.state_dict().items())


def test_a_state_dict_cannot_be_assigned_to_a_masked_model(tmp_path: Path) -> None:
    model = trained("mixtral", tmp_path)
    with pytest.raises(MoetraceError, match="assign=True"):
        model.load_state_dict(snapshot(model), assign=True)


def test_a_state_dict_with_the_names_on_disk_is_refused_rather_than_loaded_without_its_experts(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from moetrace.tracer.training import restore

    model = trained("mixtral", tmp_path)
    before = masters(model)
    on_disk = load_file(tmp_path / "model.safetensors")
    with pytest.raises(MoetraceError, match="such as those on disk; load trained experts with load_experts"):
        model.load_state_dict(on_disk, strict=False)
    assert all(torch.equal(master, before[key]) for key, master in masters(model).items())
    restore(model)
    model.load_state_dict(on_disk, strict=False)


def test_a_copy_of_a_masked_model_is_trained_apart_from_it(tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import restore
    from moetrace.tracer.training.masking import masking_of

    model = trained("olmoe", tmp_path, train_router=True)
    other, before, logits = copy.deepcopy(model), masters(model), model(batch()).logits
    with torch.no_grad():
        for master in masking_of(other).masters().values():
            master.mul_(2)
    assert all(torch.equal(master, before[key]) for key, master in masters(model).items())
    assert not torch.equal(other(batch()).logits, logits)
    logits_of_copy = other(batch()).logits
    restore(other)
    assert torch.equal(other(batch()).logits, logits_of_copy)
    assert torch.equal(model(batch()).logits, logits)


def test_masters_stay_in_float32_when_the_model_changes_its_dtype(tmp_path: Path) -> None:
    import torch

    model = trained("olmoe", tmp_path)
    before = masters(model)
    for change in (model.to, model.type):
        change(torch.bfloat16)
        assert all(torch.equal(master, before[key]) for key, master in masters(model).items())
        assert model(batch()).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_experts": 32}, "experts"),
        ({"top_k": 3}, "top.k"),
        ({"moe_layers": [0, 1, 2, 3, 4]}, "layers"),
        ({"config_sha256": "0" * 64}, "config"),
    ],
)
def test_a_mask_for_another_model_is_refused_by_name(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    import torch
    import transformers

    from moetrace.tracer.training import apply_mask

    tiny("olmoe", tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    mask, before = mask_for(model, [(0, 1)]), snapshot(model)
    mask["model"] |= change
    mask["summary"]["pool"] = len(mask["model"]["moe_layers"]) * mask["model"]["num_experts"]
    with pytest.raises(MaskError, match=said):
        apply_mask(model, mask)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_mask_of_the_same_config_is_taken(tmp_path: Path) -> None:
    import transformers

    from moetrace.tracer.model.facts import read_facts
    from moetrace.tracer.training import apply_mask

    tiny("olmoe", tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    mask = mask_for(model, [(0, 1)])
    mask["model"]["config_sha256"] = read_facts(str(tmp_path)).config_sha256
    apply_mask(model, mask)


def test_an_empty_mask_a_damaged_one_and_a_second_one_are_refused(tmp_path: Path) -> None:
    from moetrace.tracer.training import TrainingError, apply_mask, restore, write_back

    model = tiny("mixtral", tmp_path)
    with pytest.raises(TrainingError, match="no experts; there is nothing to train"):
        apply_mask(model, mask_for(model, []))
    with pytest.raises(MaskError, match="expert 8, but a layer has 8 experts"):
        apply_mask(model, mask_for(model, [(0, 8)]))
    for function in (restore, write_back):
        with pytest.raises(TrainingError, match="has no mask"):
            function(model)
    apply_mask(model, mask_for(model, [(0, 1)]))
    with pytest.raises(TrainingError, match="has a mask already"):
        apply_mask(model, mask_for(model, [(0, 1)]))


def test_models_that_cannot_be_trained_are_refused_with_the_reason(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from moetrace.tracer.training import TrainingError, apply_mask

    model = tiny("mixtral", tmp_path)
    mask = mask_for(model, [(0, 1)])
    with pytest.raises(TrainingError, match="not a model of transformers"):
        apply_mask(nn.Linear(2, 2), mask)
    offloaded = copy.deepcopy(model)
    offloaded.model.layers[0].mlp.experts.to("meta")
    with pytest.raises(TrainingError, match=r"layers\.0\.experts\.1\.gate_up_proj is offloaded"):
        apply_mask(offloaded, mask)
    quantised = copy.deepcopy(model)
    experts = quantised.model.layers[0].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(TrainingError, match=r"layers\.0\.experts\.1\.down_proj is kept in torch\.float8_e4m3fn"):
        apply_mask(quantised, mask)
    headless = copy.deepcopy(model)
    headless.model.layers[0].mlp.switch = headless.model.layers[0].mlp.gate
    del headless.model.layers[0].mlp.gate
    with pytest.raises(TrainingError, match="layer 0: no router"):
        apply_mask(headless, mask, train_router=True)
    dense = copy.deepcopy(model)
    for layer in dense.model.layers:
        layer.mlp = nn.Linear(64, 64)
    with pytest.raises(TrainingError, match="found none; this layout is not supported"):
        apply_mask(dense, mask)
    for refused in (offloaded, quantised, headless, dense):
        assert not any("trained" in name for name, _ in refused.named_modules())


def test_what_reads_a_store_does_not_import_torch() -> None:
    import subprocess
    import sys

    modules = "moetrace.cli.main, moetrace.analytics, moetrace.tracer"
    program = f"import sys, json, {modules}; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) is False
