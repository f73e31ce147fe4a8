"""`moetrace evaluate` as a person types it, whole: what it prints, and what it keeps.

Here, not in tests/cli: with an engine that is closed vLLM's process groups go, which that of the session needs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from moetrace.cli.main import run
from moetrace.store.read.reader import Store
from moetrace.tracer.bundled import CORPUS, MODEL
from tests.support.commands import failure
from tests.support.evaluations import COMMON, LANGUAGES, evaluated, intervention, write_task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path / "task")


@pytest.mark.engine
def test_interventions_stand_beside_the_baseline_and_their_controls(
    tmp_path: Path, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    up, down = intervention(tmp_path, "up"), intervention(tmp_path, "down", "suppress")
    output, items, scores, store = (tmp_path / name for name in ("out.json", "items.jsonl", "scores.csv", "store"))
    arguments = (
        "--task", task, "--intervention", up, "--intervention", down, "--draws", 1, "--items", items,
        "--scores", scores, "--trace", store, "--run", "r", "--format", "json", "-o", output,
    )  # fmt: skip
    assert evaluated(*arguments) == 0
    found = json.loads(output.read_text(encoding="utf-8"))
    controls = ["random-0", "load-0", "outside-0"]
    names = ["none", "up", "down", *(f"{name}.{control}" for name in ("up", "down") for control in controls)]
    assert [arm["name"] for arm in found["arms"]] == names
    assert found["task"] == {"name": "task", "kind": "choice", "languages": list(LANGUAGES), "selection": {}}
    rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(names) * len(LANGUAGES) * 6
    right = {
        (name, lang): sum(row["choice"] == 0 for row in rows if (row["arm"], row["lang"]) == (name, lang)) / 6
        for name in names
        for lang in LANGUAGES
    }
    for row in found["scores"]:
        if row["metric"] == "accuracy" and row["lang"] in LANGUAGES:
            assert row["value"] == pytest.approx(right[row["arm"], row["lang"]])
    against = {(row["arm"], row["against"]) for row in found["comparisons"]}
    assert against == {(arm, other) for arm in ("up", "down") for other in ("baseline", "random", "load", "outside")}
    assert scores.read_text().splitlines()[0] == "lang,score"
    assert set(Store(store).runs) == {"r-none", "r-up", "r-down"}
    capsys.readouterr()
    # The scores are what `sql --scores` reads, and the run that was traced what it correlates them with.
    query = "select distinct n from score_correlation(pivot_lang := 'deu_Latn', permutations := 9) where run = 'r-none'"
    assert run(["sql", str(store), query, "--scores", str(scores), "--format", "csv"]) == 0
    assert capsys.readouterr().out.split() == ["n", "2"]
    assert failure(capsys, "evaluate", "bundled", *arguments, *COMMON).endswith(
        "run r-none is there already; name other runs with --run"
    )


@pytest.mark.engine
def test_texts_alone_are_a_table_of_bits_a_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft = intervention(tmp_path, "soft", "soft", **{"lambda": 0.5})
    german = ("--task", "bundled", "--lang", "deu_Latn", "--limit", 4)
    assert evaluated(*german, "--intervention", soft, "--no-controls", "--model", "bundled") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["arm", "lang", "items", "bits_per_byte", "-", "baseline", "95%", "interval"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert set(rows) == {"none", "soft", "bundled"}
    assert rows["bundled"][:3] == rows["none"][:3]
    assert rows["bundled"][3:] == ["+0.0000", "+0.0000", "to", "+0.0000"]
    assert rows["soft"][2] != rows["none"][2]


@pytest.mark.engine
def test_trained_experts_stand_beside_the_model_they_are_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Experts that were moved: the loss of the text is what transformers says of the model with them in it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from moetrace.tracer.training import apply_mask, restore, save_experts
    from moetrace.tracer.training.masking import masking_of
    from tests.support.masks import mask_for

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    apply_mask(model, mask_for(model, [(layer, expert) for layer in range(8) for expert in range(0, 32, 2)]))
    with torch.no_grad():
        for master in masking_of(model).masters().values():
            master.mul_(0.5)
    (tmp_path / "tuned").mkdir()
    save_experts(model, tmp_path / "tuned" / "experts.safetensors")
    restore(model)
    german = ("--task", "bundled", "--lang", "deu_Latn", "--limit", 1, "--items", tmp_path / "items.jsonl")
    assert evaluated(*german, "--experts", tmp_path / "tuned" / "experts.safetensors") == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]} == {"none", "tuned"}
    nats = {
        row["arm"]: row["nats"]
        for row in map(json.loads, (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines())
    }
    text = json.loads((CORPUS / "deu_Latn.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    ids = [0, *AutoTokenizer.from_pretrained(MODEL)(text)["input_ids"]]
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    assert nats["tuned"] == pytest.approx(-float(sum(scores[at, ids[at + 1]] for at in range(len(ids) - 1))), abs=1e-3)
    assert abs(nats["tuned"] - nats["none"]) > 1
