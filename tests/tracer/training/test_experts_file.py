"""Trained experts on disk: their own file, and a checkpoint with them in it."""

from __future__ import annotations

import filecmp
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.store.mask import MaskError
from moetrace.tracer.bundled import MODEL
from tests.support.masked import FAMILIES, batch, changed_outside, masters, snapshot, some_experts, tiny, train, trained
from tests.support.masks import mask_for

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.tracer.engine.engine import TracedEngine


def test_the_file_holds_the_masters_of_the_mask_and_no_more(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open

    from moetrace.tracer.training import save_experts
    from moetrace.tracer.training.masking import masking_of

    model = trained("gpt_oss", tmp_path, "bfloat16", train_router=True)
    save_experts(model, tmp_path / "experts.safetensors")
    with safe_open(tmp_path / "experts.safetensors", framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    assert tensors.keys() == masters(model).keys()
    assert all(torch.equal(tensor, masters(model)[key]) for key, tensor in tensors.items())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert tensors["layers.3.experts.14.gate_up_proj_bias"].shape == (2 * 96,)
    assert tensors["layers.3.router.weight"].shape == (16, 64)
    assert list(metadata) == ["moetrace"]  # several would be written in any order
    assert json.loads(metadata["moetrace"])["mask"] == masking_of(model).mask


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_goes_on_from_the_file_as_if_it_had_not_stopped(dtype: str, tmp_path: Path) -> None:
    import torch

    from moetrace.tracer.training import apply_mask, load_experts, save_experts

    model = trained("granitemoe", tmp_path, dtype, train_router=True)
    save_experts(model, tmp_path / "experts.safetensors")
    resumed = tiny("granitemoe", tmp_path, dtype)
    apply_mask(resumed, some_experts(resumed), train_router=True)
    load_experts(resumed, tmp_path / "experts.safetensors")
    for each in (model, resumed):
        train(each, torch.optim.AdamW(each.parameters(), lr=1e-3, weight_decay=0.1), 3)
    assert all(torch.equal(master, masters(resumed)[key]) for key, master in masters(model).items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loaded_and_merged_models_are_the_trained_one(name: str, dtype: str, tmp_path: Path) -> None:
    """Nothing but masked slices changed, bit for bit, in the dtype and under the names of the original."""
    import torch
    from safetensors.torch import load_file

    from moetrace.tracer.training import load_experts, merge, restore, save_experts

    source, output = tmp_path / "model", tmp_path / "merged"
    model = trained(name, source, dtype, train_router=True)
    save_experts(model, tmp_path / "experts.safetensors")

    plain = tiny(name, tmp_path / "again", dtype)
    assert changed_outside(model, snapshot(plain)) == []
    load_experts(plain, tmp_path / "experts.safetensors")
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[path]) for path, tensor in plain.state_dict().items())

    merge(source, tmp_path / "experts.safetensors", output)
    restore(model)
    model.save_pretrained(tmp_path / "saved")
    original, merged, saved = (
        load_file(folder / "model.safetensors") for folder in (source, output, tmp_path / "saved")
    )
    assert merged.keys() == original.keys() == saved.keys()
    assert all(torch.equal(tensor, saved[path]) for path, tensor in merged.items())
    assert {path: tensor.dtype for path, tensor in merged.items()} == {
        path: tensor.dtype for path, tensor in original.items()
    }
    assert any(not torch.equal(tensor, original[path]) for path, tensor in merged.items())
    for file in ("config.json", "generation_config.json"):
        assert filecmp.cmp(source / file, output / file, shallow=False)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in source.iterdir())


def test_a_sharded_checkpoint_keeps_its_shards_and_every_other_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    from moetrace.tracer.training import load_experts, merge, save_experts

    source, output = tmp_path / "model", tmp_path / "merged"
    model = tiny("olmoe", source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="400KB")
    (source / "tokenizer.json").write_text("{}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").write_text("x")
    (source / "pytorch_model.bin").write_bytes(b"stale weights")
    save_experts(trained("olmoe", tmp_path / "again"), tmp_path / "experts.safetensors")
    merge(source, tmp_path / "experts.safetensors", output)

    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {path.relative_to(output) for path in output.rglob("*") if path.is_file()} == {
        path for path in files if path.name != "pytorch_model.bin"
    }
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    same = [name for name in shards if filecmp.cmp(source / name, output / name, shallow=False)]
    assert len(shards) > 3
    assert 0 < len(same) < len(shards), "layers in the middle are not touched"
    for name in shards:
        with safe_open(source / name, "pt") as before, safe_open(output / name, "pt") as after:
            assert sorted(before.keys()) == sorted(after.keys())
            assert before.metadata() == after.metadata()
    load_experts(model, tmp_path / "experts.safetensors")
    loaded = type(model).from_pretrained(output)
    assert all((tensor == loaded.state_dict()[name]).all() for name, tensor in model.state_dict().items())


def test_experts_that_do_not_fit_are_refused_by_name_and_nothing_is_changed(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from moetrace.tracer.training import TrainingError, apply_mask, load_experts, save_experts
    from moetrace.tracer.training.experts_file import read_experts

    model, file = trained("mixtral", tmp_path / "model"), tmp_path / "experts.safetensors"
    save_experts(model, file)
    others: list[tuple[Any, str]] = []
    for experts, routers, said in (
        ([(0, 0)], False, r"has layers\.0\.experts\.2\.down_proj and \d+ more, which the model does not train"),
        (
            [(layer, expert) for layer in (0, 3) for expert in range(8)],
            False,
            r"has no layers\.0\.experts\.1\.down_proj",
        ),
        ([(layer, expert) for layer in (0, 3) for expert in range(0, 8, 2)], True, r"has no layers\.0\.router\.weight"),
    ):
        other = tiny("mixtral", tmp_path / "other")
        apply_mask(other, mask_for(other, experts), train_router=routers)
        others.append((other, said))
    for other, said in others:
        before = masters(other)
        with pytest.raises(TrainingError, match=said):
            load_experts(other, file)
        assert all(torch.equal(master, before[key]) for key, master in masters(other).items())

    olmoe = tiny("olmoe", tmp_path / "olmoe")
    before = snapshot(olmoe)
    with pytest.raises(MaskError, match=r"experts|top.k"):
        load_experts(olmoe, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in olmoe.state_dict().items())

    wrong = load_file(file)
    wrong["layers.0.experts.0.down_proj"] = wrong["layers.0.experts.0.down_proj"][:, :5].contiguous()
    header = {"format": "moetrace-experts", "version": 1, "train_router": False, "config_sha256": None}
    header["mask"] = read_experts(file).mask
    save_file(wrong, tmp_path / "shape.safetensors", {"moetrace": json.dumps(header)})
    with pytest.raises(TrainingError, match=r"experts\.0\.down_proj is \[64, 5\] in the file and \[64, 96\]"):
        load_experts(model, tmp_path / "shape.safetensors")


def test_experts_trained_in_a_model_of_another_config_are_refused(tmp_path: Path) -> None:
    import transformers

    from moetrace.tracer.training import TrainingError, apply_mask, load_experts, save_experts

    for rope, name in ((10000.0, "model"), (5000.0, "other")):
        tiny("mixtral", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = rope
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    model, other = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("model", "other"))
    apply_mask(model, mask_for(model, [(0, 0)]))
    save_experts(model, tmp_path / "experts.safetensors")
    with pytest.raises(TrainingError, match=r"config digest [0-9a-f]{64}; that of .*other is [0-9a-f]{64}"):
        load_experts(other, tmp_path / "experts.safetensors")


def test_files_that_are_no_trained_experts_are_refused(tmp_path: Path) -> None:
    from moetrace.tracer.training import TrainingError, load_experts, save_experts

    model = tiny("mixtral", tmp_path)
    with pytest.raises(TrainingError, match="has no mask, so there are no trained experts to save"):
        save_experts(model, tmp_path / "experts.safetensors")
    with pytest.raises(TrainingError, match="not a file of trained experts"):
        load_experts(model, tmp_path / "model.safetensors")
    (tmp_path / "text").write_text("text")
    for name in ("text", "missing"):
        with pytest.raises(TrainingError, match=f"{name}: cannot be read as a file of trained experts"):
            load_experts(model, tmp_path / name)


def test_a_failed_save_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moetrace.tracer.training import TrainingError, experts_file, save_experts

    model, file = trained("mixtral", tmp_path / "model"), tmp_path / "experts.safetensors"
    save_experts(model, file)
    before = file.read_bytes()

    def fail(_tensors: Any, path: Path, metadata: Any) -> None:  # noqa: ARG001
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(experts_file, "save_file", fail)
    with pytest.raises(TrainingError, match="no space left"):
        save_experts(model, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]


def test_a_merge_that_fails_leaves_nothing_and_one_into_a_full_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moetrace.tracer.training import TrainingError, merge, save_experts

    source, file = tmp_path / "model", tmp_path / "experts.safetensors"
    save_experts(trained("mixtral", source), file)
    there = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(TrainingError, match="there is something already"):
        merge(source, file, source)
    tiny("olmoe", tmp_path / "model2")
    with pytest.raises(MaskError, match=r"experts|top.k"):
        merge(tmp_path / "model2", file, tmp_path / "merged")

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(TrainingError, match="no space left"):
        merge(source, file, tmp_path / "merged")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*there, "model2"])
    (tmp_path / "merged").mkdir()
    merge(source, file, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_quantised_checkpoints_and_those_without_safetensors_are_not_merged_into(tmp_path: Path) -> None:
    from moetrace.tracer.training import TrainingError, merge, save_experts
    from tests.support.checkpoints import make_checkpoint

    file = tmp_path / "experts.safetensors"
    save_experts(trained("mixtral", tmp_path / "model"), file)
    make_checkpoint("qwen3_moe-fp8", tmp_path / "fp8")
    with pytest.raises(TrainingError, match="quantised"):
        merge(tmp_path / "fp8", file, tmp_path / "merged")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match="only safetensors checkpoints are merged"):
        merge(tmp_path / "model", file, tmp_path / "merged")


@pytest.mark.engine
def test_vllm_routes_the_merged_model_as_before_up_to_the_first_trained_layer(
    engine: TracedEngine, tmp_path: Path
) -> None:
    """A layer's router decides before its experts compute: theirs is the next layer's to see."""
    import torch
    import transformers

    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import read_facts
    from moetrace.tracer.training import apply_mask, merge, save_experts
    from tests.support.family_run import KEPT_ENGINES, texts

    first = 3
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL)
    apply_mask(model, mask_for(model, [(layer, expert) for layer in (first, 5) for expert in range(32)]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = batch(shape=(8, 64))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_experts(model, tmp_path / "experts.safetensors")
    merge(MODEL, tmp_path / "experts.safetensors", tmp_path / "merged")

    planned = texts()
    settings = EngineSettings(dtype="float32", max_model_len=1024, kv_cache_gib=0.05)
    other = TracedEngine(read_facts(str(tmp_path / "merged")), settings)
    KEPT_ENGINES.append(other)
    (before,), (after,) = engine.trace([planned]), other.trace([planned])
    assert np.array_equal(before.lengths, after.lengths)
    assert np.array_equal(before.experts[: first + 1], after.experts[: first + 1])
    assert np.array_equal(before.weights[: first + 1], after.weights[: first + 1])
    for layer in range(first + 1, 8):
        assert not np.array_equal(before.experts[layer], after.experts[layer])
