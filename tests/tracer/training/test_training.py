"""`moetrace train`: what it trains on and measures, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.cli.main import run
from moetrace.store.errors import MoetraceError
from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.corpus.corpus import open_corpus
from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.progress import TrainingProgress
from moetrace.tracer.training.settings import TrainingSettings
from moetrace.tracer.training.texts import held_out_texts, is_held_out, training_blocks
from moetrace.tracer.training.training import train
from tests.support.masks import write_mask
from tests.support.trained import train_and_merge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = {
    "languages": ("swh_Latn",),
    "eval_languages": ("eng_Latn", "swh_Latn"),
    "eval_share": 0.2,
    "eval_texts": 6,
    "max_steps": 4,
    "batch_size": 2,
    "length": 64,
    "learning_rate": 1e-2,
    "save_every": 2,
}


def quickly(output: Path, mask: Path, **changed: Any) -> Any:
    from moetrace.store.mask import read_mask

    asked = {name: changed.pop(name) for name in ("resume", "progress") if name in changed}
    settings = TrainingSettings(**{**QUICK, **changed})
    return train(str(MODEL), str(CORPUS), output, mask=read_mask(mask), settings=settings, **asked)


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("masks") / "mask.json"
    return write_mask(file, MODEL, [(0, 3), (0, 4), (5, 31), (7, 0)], target="swh_Latn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mask: Path) -> Path:
    output = tmp_path_factory.mktemp("trained") / "whole"
    quickly(output, mask)
    return output


class StopsAtStep(TrainingProgress):
    def __init__(self, step: int) -> None:
        self.training, self.left = False, step

    def stage(self, message: str, total: int | None = None) -> None:  # noqa: ARG002
        self.training = message == "training"

    def advance(self, count: int = 1) -> None:
        self.left -= count * self.training
        if not self.left:
            raise KeyboardInterrupt


def test_the_command_trains_and_says_what_it_did(tmp_path: Path, mask: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out"
    arguments = ["train", mask, "--model", "bundled", "--corpus", "bundled", "-o", output, "--eval-lang", "swh_Latn"]
    arguments += ["--eval-lang", "eng_Latn", "--eval-texts", 4, "--max-steps", 3, "--batch-size", 2, "--length", 64]
    assert run([*map(str, arguments), "--learning-rate", "0.01", "--merge"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == ["lang", "tokens", "before", "after", "change"]
    assert lines[1].startswith("swh_Latn")
    assert lines[1].endswith("trained")
    assert lines[2].startswith("eng_Latn")
    assert "49,152 of 4,622,976 parameters trained, 3 steps" in said.err
    results = json.loads((output / "results.json").read_text())
    assert results["steps"] == 3
    assert results["trained_parameters"] == 4 * 3 * 128 * 32
    assert {row["lang"]: row["trained"] for row in results["losses"]} == {"eng_Latn": False, "swh_Latn": True}
    assert sorted(item.name for item in output.iterdir()) == [
        *("experts.safetensors", "mask.json", "merged", "results.json", "settings.json"),
    ]
    assert (output / "merged" / "config.json").read_bytes() == (MODEL / "config.json").read_bytes()
    again = tmp_path / "again"
    assert run(["merge", str(output / "experts.safetensors"), "--model", "bundled", "-o", str(again)]) == 0
    files = {item.name: item.read_bytes() for item in again.iterdir()}
    assert files == {item.name: item.read_bytes() for item in (output / "merged").iterdir()}


def test_training_lowers_the_loss_of_what_it_is_trained_on(tmp_path: Path, mask: Path) -> None:
    found = quickly(
        tmp_path / "out", mask, max_steps=20, learning_rate=1e-2, eval_corpus=str(CORPUS), eval_languages=("swh_Latn",)
    )
    assert found.losses[0].after < found.losses[0].before - 0.01


def test_held_out_losses_are_those_of_transformers(trained: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for row in json.loads((trained / "results.json").read_text())["losses"]:
        texts = [text for text in open_corpus(str(CORPUS)).read(row["lang"]) if is_held_out(text.id, 0.2)][:6]
        nats, tokens = 0.0, 0
        for text in texts:
            ids = torch.tensor([tokenizer(text.text)["input_ids"][:64]])
            with torch.no_grad():
                probabilities = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            nats -= float(probabilities.gather(1, ids[0, 1:, None]).double().sum())
            tokens += ids.shape[1] - 1
        assert row["tokens"] == tokens
        assert row["before"] == pytest.approx(nats / tokens, rel=1e-2)  # bfloat16 in other batches


def test_the_same_training_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, mask: Path, trained: Path
) -> None:
    quickly(tmp_path / "same", mask)
    quickly(tmp_path / "other", mask, seed=1)
    experts = (trained / "experts.safetensors").read_bytes()
    assert (tmp_path / "same" / "experts.safetensors").read_bytes() == experts
    assert (tmp_path / "other" / "experts.safetensors").read_bytes() != experts


@pytest.mark.parametrize("step", [1, 3])
def test_an_interrupted_training_goes_on_as_if_it_had_not_stopped(
    step: int, tmp_path: Path, mask: Path, trained: Path
) -> None:
    output = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        quickly(output, mask, progress=StopsAtStep(step))
    assert not (output / "results.json").exists()
    checkpoint = output / "checkpoints" / "checkpoint-2"
    assert checkpoint.exists() == (step == 3)
    if step == 3:
        # A checkpoint that was not finished counts for nothing: its state is what is written last.
        unfinished = output / "checkpoints" / "checkpoint-3"
        unfinished.mkdir()
        (unfinished / "experts.safetensors").write_bytes(b"half")
        assert sum(item.stat().st_size for item in checkpoint.iterdir()) < (MODEL / "model.safetensors").stat().st_size
    result = quickly(output, mask, resume=True)
    assert result.steps == 4
    assert (output / "experts.safetensors").read_bytes() == (trained / "experts.safetensors").read_bytes()
    kept, whole = (json.loads((folder / "results.json").read_text()) for folder in (output, trained))
    assert (kept["losses"], kept["tokens"], kept["history"]) == (whole["losses"], whole["tokens"], whole["history"])


def test_what_is_there_is_never_overwritten(tmp_path: Path, mask: Path, trained: Path) -> None:
    with pytest.raises(TrainingError, match="a finished training is there"):
        quickly(trained, mask, resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="the folder is not empty"):
        quickly(tmp_path, mask)
    begun = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt):
        quickly(begun, mask, progress=StopsAtStep(1))
    with pytest.raises(TrainingError, match="--resume goes on with it"):
        quickly(begun, mask)
    with pytest.raises(TrainingError, match=r"cannot resume, learning_rate was 0.01 and is now 0.02"):
        quickly(begun, mask, resume=True, learning_rate=0.02)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path, mask: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is nan at step 10; lower --learning-rate"):
        quickly(tmp_path / "out", mask, learning_rate=1e30, max_steps=10, eval_texts=1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"languages": ("swh",)}, "has no language 'swh'; did you mean swh_Latn"),
        ({"eval_languages": ("english",)}, "has no language 'english'; did you mean eng_Latn"),
        ({"length": 4096}, "--length 4096: .* takes 2 to 1024 tokens"),
        ({"eval_share": 1e-9}, "no text of eng_Latn is held out; raise --eval-share"),
        ({"dtype": "float8"}, "no dtype 'float8'"),
    ],
)
def test_what_cannot_be_trained_is_a_one_line_error(
    changed: dict[str, Any], message: str, tmp_path: Path, mask: Path
) -> None:
    with pytest.raises(MoetraceError, match=message) as raised:
        quickly(tmp_path / "out", mask, **changed)
    assert "\n" not in str(raised.value)


def test_routers_of_masked_layers_are_trained_where_they_are_asked_for(tmp_path: Path, mask: Path) -> None:
    from moetrace.tracer.training.experts_file import read_experts

    quickly(tmp_path / "out", mask, train_router=True, max_steps=1, eval_texts=1)
    routers = {key for key in read_experts(tmp_path / "out" / "experts.safetensors").tensors if "router" in key}
    assert routers == {f"layers.{layer}.router.weight" for layer in (0, 5, 7)}


def test_what_is_merged_differs_in_the_mask_and_nowhere_else(tmp_path: Path) -> None:
    found = train_and_merge(tmp_path, 2)
    assert found.result.steps == 2
    assert found.changed  # an expert that no token came to has not moved
    assert found.changed <= found.masked


def test_several_processes_are_refused(tmp_path: Path, mask: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="one process on one GPU"):
        quickly(tmp_path / "out", mask)
    assert not (tmp_path / "out").exists()


def test_without_a_mask_the_whole_model_is_trained_and_written(tmp_path: Path) -> None:
    settings = TrainingSettings(**{**QUICK, "max_steps": 1, "eval_texts": 2})
    result = train(str(MODEL), str(CORPUS), tmp_path / "out", mask=None, settings=settings)
    assert result.trained_parameters == result.parameters == 4_622_976
    written, original = (
        json.loads((folder / "config.json").read_text()) for folder in (result.output / "model", MODEL)
    )
    assert all(written[name] == original[name] for name in original if name not in {"dtype", "transformers_version"})


def test_a_mask_of_another_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    other = write_mask(tmp_path / "other.json", MODEL, [(0, 1)], target="swh_Latn", num_experts=64)
    with pytest.raises(MoetraceError, match="64"):
        quickly(tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


def test_translations_of_a_held_out_text_are_never_trained_on() -> None:
    corpus = open_corpus(str(CORPUS))
    seen: list[str] = []

    def encode(texts: list[str]) -> list[list[int]]:
        seen.extend(texts)
        return [[1, 2, 3]] * len(texts)

    keep: Callable[[Any], bool] = lambda text: not is_held_out(text.id, 0.3)  # noqa: E731
    training_blocks(corpus, ["eng_Latn", "swh_Latn"], encode, keep=keep, end=0, length=8, seed=0)
    held_out = {text.text for lang in ("eng_Latn", "swh_Latn") for text in corpus.read(lang) if not keep(text)}
    assert held_out
    assert not held_out & set(seen)
    ids = [{text.id for text in corpus.read(lang) if not keep(text)} for lang in ("eng_Latn", "swh_Latn")]
    assert ids[0] == ids[1]


def test_blocks_hold_every_token_once_with_an_end_after_each_text() -> None:
    corpus = open_corpus(str(CORPUS))
    lengths = iter(range(1, 1000))
    blocks = training_blocks(
        corpus,
        ["eng_Latn"],
        lambda texts: [[next(lengths)] * 3 for _ in texts],
        keep=lambda _: True,
        end=0,
        length=10,
        seed=3,
    )
    tokens = [token for block in blocks for token in block]
    count = sum(1 for _ in corpus.read("eng_Latn"))
    assert all(len(block) == 10 for block in blocks[:-1])
    assert tokens[3::4] == [0] * len(tokens[3::4])
    assert sorted(set(tokens) - {0}) == list(range(1, count + 1))


def test_a_text_with_nothing_to_predict_is_not_measured() -> None:
    corpus = open_corpus(str(CORPUS))
    lengths = iter([1, 5, 2] + [1] * 1000)
    found = held_out_texts(
        corpus,
        ["eng_Latn"],
        lambda texts: [[7] * next(lengths) for _ in texts],
        keep=lambda _: True,
        most=None,
        length=4,
    )
    assert [len(row) for row in found.rows] == [2, 4]
    assert found.tokens() == {"eng_Latn": 4}
