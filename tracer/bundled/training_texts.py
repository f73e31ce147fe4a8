"""What the bundled model is trained on: texts alone and in pairs, never of an id that is held out.

The data are three parallel corpora: Home Assistant's user-interface strings (30 languages), the Universal
Declaration of Human Rights (24 languages) and the everyday sentences bundled here (12 languages). A document is one
text, or two of the same id in two languages, joined by " = ": from the pairs the model learns to read a text with the
help of what it says in another language. Texts are held out by id, the same ids in every language.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np

SEED = 20260
PIVOT = "eng_Latn"
SEPARATOR = " = "

EVERYDAY_HELD_OUT = 12  # of 60 ids, the last ones
HELD_OUT_SHARE = {"ui-strings": 0.04, "udhr": 0.12}
LOW_RESOURCE_SHARE = {"gle_Latn": 0.10, "mal_Mlym": 0.10, "gsw_Latn": 0.10}
REPEATS = {"ui-strings": 1, "udhr": 3, "everyday": 3}
ALONE = 0.25  # of the texts, beside their pair with the pivot
OTHER_PAIRS = 0.25  # of the texts, with one in a language that is not the pivot


@dataclass(frozen=True)
class Text:
    """One text of one of the training corpora."""

    corpus: str
    lang: str
    id: str
    text: str


@dataclass(frozen=True)
class Document:
    """One text, or two of the same id; the model learns to predict those that are `counted`, and reads the others."""

    texts: tuple[Text, ...]
    counted: tuple[bool, ...]

    @property
    def text(self) -> str:
        """The document as the model reads it."""
        return SEPARATOR.join(row.text for row in self.texts)


def read_corpus(name: str, folder: Path) -> list[Text]:
    """Return every text of a folder of `<lang>.jsonl` files, in file order."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            rows += [Text(name, path.stem, r["id"], r["text"]) for r in map(json.loads, lines) if r["text"].strip()]
    if not rows:
        raise click.ClickException(f"{folder}: no .jsonl files with texts to train on")
    return rows


def write_corpus(texts: Iterable[Text], folder: Path) -> None:
    """Write texts as a folder of `<lang>.jsonl` files, in place of what is there: all of it, or nothing."""
    lines: dict[str, list[str]] = defaultdict(list)
    for row in texts:
        lines[row.lang].append(json.dumps({"id": row.id, "text": row.text}, ensure_ascii=False))
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent))
    for lang, found in lines.items():
        (staged / f"{lang}.jsonl").write_text("\n".join(found) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def read_corpora(ui_strings: Path, udhr: Path, everyday: Path) -> list[Text]:
    """Return every text of the three corpora."""
    folders = {"ui-strings": ui_strings, "udhr": udhr, "everyday": everyday}
    return [row for name, folder in folders.items() for row in read_corpus(name, folder)]


def id_fraction(text_id: str, salt: str) -> float:
    """Map a text id to [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{text_id}".encode()).digest()[:8], "big") / 2**64


def is_held_out(row: Text) -> bool:
    """Tell whether a text is for measuring only; decided by its id, so alike in every language."""
    if row.corpus == "everyday":
        return int(row.id.rsplit("-", 1)[1]) > 60 - EVERYDAY_HELD_OUT
    return id_fraction(row.id, f"{SEED}:{row.corpus}") < HELD_OUT_SHARE[row.corpus]


def is_withheld(row: Text) -> bool:
    """Tell whether a text is dropped from training to keep a low-resource language low-resource."""
    share = LOW_RESOURCE_SHARE.get(row.lang, 1.0) if row.corpus == "ui-strings" else 1.0
    return id_fraction(row.id, f"{SEED}:withhold") >= share


def split(rows: Sequence[Text]) -> tuple[list[Text], list[Text]]:
    """Return the training texts and the held-out ones; no training text has the words of a held-out one."""
    held_out = [row for row in rows if is_held_out(row)]
    words = {(row.lang, row.text) for row in held_out}
    training = [
        row for row in rows if not is_held_out(row) and not is_withheld(row) and (row.lang, row.text) not in words
    ]
    return training, held_out


def epoch(training: Sequence[Text], fits: Callable[[Text, Text], bool], rng: np.random.Generator) -> Iterator[Document]:
    """Yield the documents of one epoch: each text with its English, some alone, some with another language's.

    A text without an English one, and one whose pair does not fit into a block, stands alone. The partner in another
    pair is drawn among the languages that are not low-resource: they are not to be seen more often than their texts. An
    English text stands in a pair with each other language, and counts in one of them only: counted in all, English
    texts are learnt by heart.
    """
    by_id: dict[tuple[str, str], dict[str, Text]] = defaultdict(dict)
    for row in training:
        by_id[row.corpus, row.id][row.lang] = row
    for row in training:
        peers = by_id[row.corpus, row.id]
        others = [one for lang, one in peers.items() if lang not in {row.lang, PIVOT, *LOW_RESOURCE_SHARE}]
        for _ in range(REPEATS[row.corpus]):
            alone, other, counts = rng.random(3)
            paired = row.lang != PIVOT and PIVOT in peers and fits(row, peers[PIVOT])
            if paired:
                yield _pair(row, peers[PIVOT], rng, counted=bool(counts < 1 / (len(peers) - 1)))
            if alone < ALONE or not paired:
                yield Document((row,), (True,))
            if other < OTHER_PAIRS and others and row.lang != PIVOT:
                partner = others[rng.integers(len(others))]
                if fits(row, partner):
                    yield _pair(row, partner, rng, counted=True)


def _pair(row: Text, partner: Text, rng: np.random.Generator, *, counted: bool) -> Document:
    if rng.random() < 0.5:
        return Document((row, partner), (True, counted))
    return Document((partner, row), (counted, True))


def balanced(texts: Iterable[Text], budget_bytes: int = 60_000) -> Iterator[str]:
    """Yield texts until each language has had its bytes: what a tokenizer is trained on."""
    left: dict[str, int] = defaultdict(lambda: budget_bytes)
    for row in texts:
        if left[row.lang] > 0:
            left[row.lang] -= len(row.text.encode())
            yield row.text
