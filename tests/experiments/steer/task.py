"""The task: an English text, and which of four texts of another language translates it. Only held-out ids.

Ids are parted into two folds. Experts are found on the texts of one fold and measured on those of the other, and the
other way round, so that every id is measured and none by experts that were chosen on it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from moetrace.tracer.bundled.training_texts import PIVOT, SEPARATOR, Text, id_fraction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

LANGUAGES = ("deu_Latn", "ell_Grek", "gle_Latn", "jpn_Jpan", "rus_Cyrl", "tur_Latn")
CHOICES = 4
BEGIN = "<|endoftext|>"  # what a document of the bundled model's training begins after
FOLDS = (0, 1)

Texts = dict[str, dict[str, str]]  # language -> id -> text


def parallel(held_out: Iterable[Text]) -> Texts:
    """Return the held-out texts of English and the languages, those ids whose text is not the English one itself."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in held_out:
        if row.lang in {PIVOT, *LANGUAGES}:
            found[row.lang][f"{row.corpus}:{row.id}"] = row.text
    english = found[PIVOT]
    for lang in LANGUAGES:
        found[lang] = {name: text for name, text in found[lang].items() if name in english and text != english[name]}
    return dict(found)


def fold_of(name: str) -> int:
    """Return the fold of an id, the same on every machine and in every language."""
    return int(id_fraction(name, "steer") >= 0.5)


def items(texts: Mapping[str, str], questions: Mapping[str, str], fold: int, lang: str) -> list[dict[str, object]]:
    """Return the items of a fold: after a question its text and three others of the same fold, in random order."""
    names = sorted(name for name in texts if name in questions and fold_of(name) == fold)
    found = []
    for name in names:
        rng = np.random.default_rng([int(id_fraction(name, lang) * 2**32), fold])
        others = [other for other in names if texts[other] != texts[name]]
        drawn = [texts[others[place]] for place in rng.choice(len(others), CHOICES - 1, replace=False)]
        place = int(rng.integers(CHOICES))
        choices = [*drawn[:place], texts[name], *drawn[place:]]
        question = f"{BEGIN}{questions[name]}{SEPARATOR.rstrip()}"
        found.append({"id": name, "question": question, "choices": choices, "answer": place})
    return found


def write_tasks(texts: Texts, folder: Path) -> None:
    """Write, of each fold, the task, and two corpora of English: the task with English answers, and these texts alone.

    In the English task the question is in one of the languages, by the id, and what is read is the right answer.
    """
    english = texts[PIVOT]
    for fold in FOLDS:
        for lang in LANGUAGES:
            _write(folder / f"task-{fold}" / f"{lang}.jsonl", items(texts[lang], english, fold, lang))
        names = sorted(name for name in english if fold_of(name) == fold)
        asked, alone = [], []
        for number, name in enumerate(names):
            langs = [lang for lang in LANGUAGES if name in texts[lang]]
            if langs:
                question = texts[langs[number % len(langs)]][name]
                asked.append({"id": name, "text": f"{BEGIN}{question}{SEPARATOR}{english[name]}"})
                alone.append({"id": name, "text": f"{BEGIN}{english[name]}"})
        _write(folder / f"english-task-{fold}" / f"{PIVOT}.jsonl", asked)
        _write(folder / f"english-alone-{fold}" / f"{PIVOT}.jsonl", alone)


def _write(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
