"""What the bundled model was trained on: nothing that is held out, and little of the low-resource languages."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from moetrace.tracer.bundled import CORPUS
from moetrace.tracer.bundled.training_texts import (
    LOW_RESOURCE_SHARE,
    PIVOT,
    REPEATS,
    Document,
    Text,
    epoch,
    is_held_out,
    read_corpora,
    read_corpus,
    split,
)
from tests.support.paths import SHARED

EPOCHS = 2


def fits(row: Text, partner: Text) -> bool:
    """A block as long as you like."""
    return row != partner


@pytest.fixture(scope="module")
def rows() -> list[Text]:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return read_corpora(folder / "ui-strings", folder / "udhr", CORPUS)


@pytest.fixture(scope="module")
def training(rows: list[Text]) -> list[Text]:
    return split(rows)[0]


@pytest.fixture(scope="module")
def documents(training: list[Text]) -> list[Document]:
    rng = np.random.default_rng(5)
    return [document for _ in range(EPOCHS) for document in epoch(training, fits, rng)]


def test_no_held_out_id_was_seen_alone_or_in_a_pair(rows: list[Text], documents: list[Document]) -> None:
    held_out = split(rows)[1]
    ids = {(row.corpus, row.id) for row in held_out}
    assert len(held_out) == 3102
    assert len(ids) == 98 + 5 + 12
    assert not [row for document in documents for row in document.texts if (row.corpus, row.id) in ids]


def test_no_held_out_text_was_seen_under_another_id(rows: list[Text], documents: list[Document]) -> None:
    words = {(row.lang, row.text) for row in rows if is_held_out(row)}
    assert not [row for document in documents for row in document.texts if (row.lang, row.text) in words]


def test_two_texts_of_a_document_are_translations_in_either_order(documents: list[Document]) -> None:
    assert {len(document.texts) for document in documents} == {1, 2}
    pairs = [document.texts for document in documents if len(document.texts) == 2]
    assert all((a.corpus, a.id) == (b.corpus, b.id) and a.lang != b.lang for a, b in pairs)
    with_pivot = [(a, b) for a, b in pairs if PIVOT in {a.lang, b.lang}]
    assert sum(a.lang == PIVOT for a, _ in with_pivot) / len(with_pivot) == pytest.approx(0.5, abs=0.01)


def test_an_english_text_counts_in_one_pair_of_an_epoch(training: list[Text], documents: list[Document]) -> None:
    counted: Counter[tuple[str, str]] = Counter()
    for document in documents:
        counted.update(
            (row.corpus, row.lang)
            for row, counts in zip(document.texts, document.counted, strict=True)
            if counts and len(document.texts) == 2
        )
        assert all(c for row, c in zip(document.texts, document.counted, strict=True) if row.lang != PIVOT)
    for corpus in ("ui-strings", "udhr"):
        texts = sum(row.corpus == corpus and row.lang == PIVOT for row in training) * REPEATS[corpus] * EPOCHS
        assert counted[corpus, PIVOT] / texts == pytest.approx(1, abs=0.2)


def test_low_resource_languages_are_seen_no_more_than_their_own_texts(
    training: list[Text], documents: list[Document]
) -> None:
    seen = Counter(row.lang for document in documents for row in document.texts)
    third = [document.texts for document in documents if PIVOT not in {row.lang for row in document.texts}]
    pairs = [texts for texts in third if len(texts) == 2]
    assert pairs
    own = Counter(row.lang for row in training for _ in range(REPEATS[row.corpus] * EPOCHS))
    strings = Counter(row.lang for row in training if row.corpus == "ui-strings")
    for lang in LOW_RESOURCE_SHARE:
        # A pair with English each, a quarter alone beside, a quarter in a pair that they have themselves.
        assert seen[lang] / own[lang] == pytest.approx(1.5, abs=0.15)
        assert strings[lang] < 0.13 * strings[PIVOT]


def test_a_pair_that_does_not_fit_a_block_is_two_documents() -> None:
    everyday = split(read_corpus("everyday", CORPUS))[0]
    found = list(epoch(everyday, lambda *_: False, np.random.default_rng(1)))
    assert {len(document.texts) for document in found} == {1}
    assert len(found) == len(everyday) * REPEATS["everyday"]


def test_a_document_reads_as_an_equation() -> None:
    pair = (Text("c", "eng_Latn", "1", "Good morning"), Text("c", "deu_Latn", "1", "Guten Morgen"))
    assert Document(pair, (True, True)).text == "Good morning = Guten Morgen"
    assert Document(pair[:1], (True,)).text == "Good morning"
