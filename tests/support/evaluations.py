"""Evaluations of the bundled model as tests type them: a small task, interventions, the command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moetrace.cli.main import run
from moetrace.store.intervention import intervention_text
from moetrace.tracer.bundled import CORPUS

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


def write_task(folder: Path) -> Path:
    """Which of two texts comes first, in three languages."""
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
