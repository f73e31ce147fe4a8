"""`moetrace evaluate` as a person types it: what it prints, what it keeps, how it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.cli.main import run
from moetrace.store.intervention import intervention_text
from moetrace.tracer.bundled import CORPUS
from tests.support.commands import failure

if TYPE_CHECKING:
    from pathlib import Path

COMMON = ("--dtype", "float32", "--max-model-len", "256", "--replicates", "50")
LANGUAGES = ("deu_Latn", "spa_Latn", "swh_Latn")


def intervention(folder: Path, name: str, mode: str = "promote", **more: Any) -> Path:
    cells = [{"layer": layer, "expert": expert} for layer in (3, 4) for expert in (1, 5)]
    steps = [{"mode": mode, "experts": cells, **more}]
    file = folder / f"{name}.json"
    value = {"format": "moetrace-intervention", "version": 1, "name": name, "steps": steps}
    file.write_text(intervention_text(value), encoding="utf-8")
    return file


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "task"
    folder.mkdir()
    for lang in LANGUAGES:
        texts = [json.loads(line) for line in (CORPUS / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()[:6]]
        rows = [
            {"id": row["id"], "text": "=", "choices": [row["text"], texts[at - 1]["text"]], "answer": 0}
            for at, row in enumerate(texts)
        ]
        (folder / f"{lang}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def evaluated(*arguments: object) -> int:
    return run(["evaluate", "bundled", *map(str, arguments), *COMMON])


def test_what_cannot_be_evaluated_is_one_line(tmp_path: Path, task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: object) -> str:
        assert evaluated(*arguments) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    up = intervention(tmp_path, "up")
    assert "--control and --no-controls" in said("--task", task, "--control", "load", "--no-controls")
    assert "x.safetensors: there is no such file" in said("--task", task, "--experts", tmp_path / "x.safetensors")
    for arguments, message in (
        (("--task", tmp_path / "nowhere"), "no such folder or file"),
        (("--task", task, "--lang", "xyz"), "no language 'xyz'"),
        (("--task", task, "--by-language", f"xyz={up}"), "--by-language xyz: the corpus has"),
        (("--task", task, "--intervention", up, "--model", tmp_path / "up"), "two things to evaluate are called up"),
        (("--task", task, "--intervention", up, "--scope", "generated"), "nothing is generated in this task"),
        (("--task", task, "--intervention", task / "deu_Latn.jsonl"), "line 2, column 1: not valid JSON"),
    ):
        assert message in failure(capsys, "evaluate", "bundled", *arguments, *COMMON)
