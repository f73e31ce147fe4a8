"""Parts: the texts of a corpus in file order, in portions that are tokenised, and kept, one by one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.tracer.corpus.ids import DigestSet, UniqueIds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.tracer.corpus.corpus import Corpus
    from moetrace.tracer.corpus.fields import Text

PART_TEXTS = 16_384  # texts of a part,
PART_CHARACTERS = 2_000_000  # or fewer, where they are long: some 2 MB of token ids


@dataclass(frozen=True)
class Part:
    """Consecutive texts of a language, and their ids."""

    lang: str
    text_ids: list[str]
    texts: list[str]


class Parts:
    """Reads a corpus part by part, and learns what a plan says of the corpus as a whole.

    sha256: of all texts that were read, their ids and languages; counts: language -> its texts
    """

    def __init__(self, corpus: Corpus) -> None:
        self.sha256 = hashlib.sha256()
        self.counts: dict[str, int] = {}
        self._corpus = corpus
        self._everywhere = DigestSet()

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts, language after language; raise MoetraceError as `Corpus.read` does."""
        for lang in self._corpus.languages:
            ids = UniqueIds()
            texts: list[Text] = []
            characters = 0
            for text in self._corpus.read(lang, ids):
                texts.append(text)
                characters += len(text.text)
                if len(texts) == PART_TEXTS or characters >= PART_CHARACTERS:
                    yield self._part(lang, texts)
                    texts, characters = [], 0
            if texts:
                yield self._part(lang, texts)
            self.counts[lang] = len(ids)
            self._everywhere = self._everywhere.union(ids.blocks())

    @property
    def missing(self) -> dict[str, int]:
        """Return how many of all ids a language lacks, for those that lack any."""
        every = len(self._everywhere)
        return {lang: every - count for lang, count in self.counts.items() if count < every}

    def _part(self, lang: str, texts: list[Text]) -> Part:
        try:
            self.sha256.update("".join([f"{lang}\0{text.id}\0{text.text}\0" for text in texts]).encode())
        except UnicodeEncodeError as error:
            broken = next(text for text in texts if _is_broken(text))
            raise MoetraceError(
                f"{self._corpus.source}: text {broken.id!r} of {lang} has half a character (a lone surrogate); mend it"
            ) from error
        return Part(lang, [text.id for text in texts], [text.text for text in texts])


def _is_broken(text: Text) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text.id + text.text)
