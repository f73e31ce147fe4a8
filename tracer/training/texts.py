"""The texts that are trained on and those that are held out, as token ids."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from moetrace.tracer.corpus.corpus import Corpus
    from moetrace.tracer.corpus.fields import Text
    from moetrace.tracer.plan.prompts import Encode

AT_ONCE = 512  # texts that the tokenizer gets together


@dataclass(frozen=True)
class HeldOut:
    """The held-out texts of some languages, shortest first.

    rows: token ids of each text; languages: whose text each row is
    """

    rows: list[list[int]]
    languages: list[str]

    def tokens(self) -> dict[str, int]:
        """Return how many tokens of each language are predicted: all but the first of each text."""
        found: dict[str, int] = dict.fromkeys(sorted(set(self.languages)), 0)
        for row, lang in zip(self.rows, self.languages, strict=True):
            found[lang] += len(row) - 1
        return found


def is_held_out(text_id: str, share: float) -> bool:
    """Tell whether a text is for measuring only; its id decides, so that its translations are held out with it."""
    digest = hashlib.sha256(f"moetrace held out:{text_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def training_blocks(
    corpus: Corpus,
    languages: Sequence[str],
    encode: Encode,
    *,
    keep: Callable[[Text], bool],
    end: int | None,
    length: int,
    seed: int,
) -> list[list[int]]:
    """Return the kept texts of `languages`, shuffled by `seed`, as blocks of `length` token ids; the last is shorter.

    `end` stands after each text, where the tokenizer has such a token. Raises MoetraceError where nothing is left.
    """
    pieces = [
        np.asarray([*ids, *([] if end is None else [end])], dtype=np.int32)
        for lang in languages
        for ids in _encoded((text for text in corpus.read(lang) if keep(text)), encode)
    ]
    if not pieces:
        raise MoetraceError(
            f"{corpus.source}: no text of {', '.join(languages)} is left to train on; lower --eval-share"
        )
    order = np.random.default_rng(seed).permutation(len(pieces))
    stream = np.concatenate([pieces[i] for i in order])
    blocks = [stream[start : start + length].tolist() for start in range(0, len(stream), length)]
    return [block for block in blocks if len(block) > 1]


def held_out_texts(
    corpus: Corpus,
    languages: Sequence[str],
    encode: Encode,
    *,
    keep: Callable[[Text], bool],
    most: int | None,
    length: int,
) -> HeldOut:
    """Return the first `most` kept texts of each language, each cut after `length` tokens.

    A text of one token has nothing to predict and is left out. Raises MoetraceError for a language without texts.
    """
    found: list[tuple[int, str, list[int]]] = []
    for lang in languages:
        kept = (text for text in corpus.read(lang) if keep(text))
        mine = [ids[:length] for ids in _encoded(islice(kept, most), encode) if len(ids) > 1]
        if not mine:
            raise MoetraceError(
                f"{corpus.source}: no text of {lang} is held out; raise --eval-share, or leave it out with --eval-lang"
            )
        found += [(len(ids), lang, ids) for ids in mine]
    found.sort(key=lambda row: row[:2])
    return HeldOut([ids for _, _, ids in found], [lang for _, lang, _ in found])


def _encoded(texts: Iterable[Text], encode: Encode) -> Iterator[list[int]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text.text)
        if len(batch) == AT_ONCE:
            yield from encode(batch)
            batch = []
    if batch:
        yield from encode(batch)
