"""The blocks that the bundled model was trained on: what is in them, and what of it is predicted."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.bundled.make_model import BLOCK, END, IGNORED, Blocks
from moetrace.tracer.bundled.training_texts import PIVOT, SEPARATOR, read_corpus, split


def test_what_is_only_read_are_english_texts_and_nothing_else() -> None:
    training = split(read_corpus("everyday", CORPUS))[0]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    blocks = Blocks(training, tokenizer, tokens=200_000)
    ids, labels = blocks.blocks.reshape(2, -1).tolist()
    assert blocks.blocks.shape[2] == BLOCK
    assert all(label in {token, IGNORED} for token, label in zip(ids, labels, strict=True))

    end = tokenizer.convert_tokens_to_ids(END)
    separator = tokenizer.encode(SEPARATOR.rstrip())
    assert len(separator) == 1
    english = {row.text for row in training if row.lang == PIVOT}
    documents: list[list[tuple[int, int]]] = [[]]
    for token, label in zip(ids, labels, strict=True):
        documents[-1].append((token, label))
        if token == end:
            documents.append([])
    read = predicted = 0
    for document in documents[:-1]:
        assert document[-1] == (end, end)
        unread = [token for token, label in document if label == IGNORED]
        read += len(unread)
        predicted += len(document) - len(unread)
        if unread:
            assert tokenizer.decode(unread).strip() in english
            assert (separator[0], separator[0]) in document
    assert read > 0.2 * predicted
    only_read = sum(blocks.seen.values()) - sum(blocks.counted.values())  # by each text's tokens where it stands alone
    assert only_read == pytest.approx(sum(label == IGNORED for label in labels), rel=0.02)
