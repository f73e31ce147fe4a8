"""The plan: a corpus tokenised once and cut into shards, always the same way for the same input and settings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from store import MoetraceError

if TYPE_CHECKING:
    from tracer.corpus import Corpus

log = logging.getLogger(__name__)

Encode = Callable[[list[str]], list[list[int]]]
PIVOTS = ("eng_Latn", "eng", "en")


@dataclass(frozen=True)
class PlannedShard:
    """Consecutive texts of one language that are traced, written and committed together.

    seqs: number of each text in its language; token_ids: the texts' tokens, one int32 array a text.
    """

    lang: str
    number: int
    seqs: npt.NDArray[np.int32]
    text_ids: tuple[str, ...]
    truncated: npt.NDArray[np.bool_]
    token_ids: tuple[npt.NDArray[np.int32], ...]

    @property
    def key(self) -> str:
        """Return a name for the shard that is unique in its plan."""
        return f"{self.lang}/{self.number:05d}"

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Return the number of tokens of each text."""
        return np.array([len(ids) for ids in self.token_ids], dtype=np.int32)

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the shard."""
        return sum(len(ids) for ids in self.token_ids)


@dataclass(frozen=True)
class Plan:
    """Every shard of a run, by language, and what the run record says of the corpus."""

    shards: tuple[PlannedShard, ...]
    corpus_sha256: str
    languages: tuple[str, ...]
    pivot: str | None
    missing: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Return the number of tokens over all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def truncated(self) -> int:
        """Return how many texts were cut to the model's window."""
        return sum(int(shard.truncated.sum()) for shard in self.shards)

    def corpus_record(self) -> dict[str, object]:
        """Return the `corpus` part of the run record."""
        mine = {lang: [shard for shard in self.shards if shard.lang == lang] for lang in self.languages}
        return {
            "sha256": self.corpus_sha256,
            "languages": list(self.languages),
            "pivot": self.pivot,
            "texts": {lang: sum(len(shard.seqs) for shard in shards) for lang, shards in mine.items()},
            "tokens": {lang: sum(shard.tokens for shard in shards) for lang, shards in mine.items()},
            "shards": {lang: len(shards) for lang, shards in mine.items()},
            "truncated": self.truncated,
        }


def make_plan(
    corpus: Corpus,
    encode: Encode,
    *,
    shard_tokens: int,
    window: int,
    on_long: str = "truncate",
    pivot: str | None = None,
    limit: int | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Plan:
    """Tokenise a corpus and cut each language into shards of at most `shard_tokens` tokens (one text at least).

    A text of more than `window` tokens is truncated (`on_long="truncate"`) or refused (`"error"`).
    Ids that some languages lack are kept where they are and counted in `Plan.missing`.
    Raises MoetraceError for a text without tokens, a long text under "error", or an unknown pivot.
    """
    digest = hashlib.sha256()
    shards: list[PlannedShard] = []
    ids: dict[str, set[str]] = {}
    for lang in corpus.languages:
        texts = _Encoded(corpus, lang, encode, window=window, on_long=on_long, limit=limit, digest=digest)
        before = len(shards)
        shards.extend(_cut(lang, texts, shard_tokens))
        ids[lang] = {text_id for shard in shards[before:] for text_id in shard.text_ids}
        if progress:
            progress(lang, sum(shard.tokens for shard in shards[before:]))
    everywhere = set().union(*ids.values())
    missing = {lang: len(everywhere) - len(mine) for lang, mine in ids.items() if len(mine) < len(everywhere)}
    return Plan(tuple(shards), digest.hexdigest(), corpus.languages, _pivot(pivot, corpus), missing)


def _pivot(asked: str | None, corpus: Corpus) -> str | None:
    if asked is None:
        return next((lang for lang in PIVOTS if lang in corpus.languages), None)
    if asked not in corpus.languages:
        raise MoetraceError(f"--pivot {asked}: not a language of {corpus.source} ({', '.join(corpus.languages[:12])})")
    return asked


class _Encoded:
    """The texts of one language as token ids, in order, with what the digest and the shards need."""

    def __init__(
        self,
        corpus: Corpus,
        lang: str,
        encode: Encode,
        *,
        window: int,
        on_long: str,
        limit: int | None,
        digest: hashlib._Hash,
    ) -> None:
        self._corpus, self._lang, self._encode = corpus, lang, encode
        self._window, self._on_long, self._limit, self._digest = window, on_long, limit, digest

    def __iter__(self) -> Iterator[tuple[str, npt.NDArray[np.int32], bool]]:
        texts = self._corpus.read(self._lang)
        if self._limit is not None:
            texts = islice(texts, self._limit)
        while batch := list(islice(texts, 1024)):
            for text, ids in zip(batch, self._encode([text.text for text in batch]), strict=True):
                self._digest.update(f"{self._lang}\0{text.id}\0{text.text}\0".encode())
                yield text.id, *self._fit(text.id, ids)

    def _fit(self, text_id: str, ids: Sequence[int]) -> tuple[npt.NDArray[np.int32], bool]:
        where = f"{self._corpus.source}: text '{text_id}' of {self._lang}"
        if not ids:
            raise MoetraceError(f"{where} has no tokens; remove it")
        if len(ids) > self._window and self._on_long == "error":
            raise MoetraceError(
                f"{where} has {len(ids)} tokens, the window is {self._window}; split it or --on-long truncate"
            )
        return np.asarray(ids[: self._window], dtype=np.int32), len(ids) > self._window


def _cut(
    lang: str, texts: Iterator[tuple[str, npt.NDArray[np.int32], bool]] | _Encoded, shard_tokens: int
) -> Iterator[PlannedShard]:
    pending: list[tuple[str, npt.NDArray[np.int32], bool]] = []
    size = number = first = 0
    for text in texts:
        if pending and size + len(text[1]) > shard_tokens:
            yield _shard(lang, number, first, pending)
            number, first, size, pending = number + 1, first + len(pending), 0, []
        pending.append(text)
        size += len(text[1])
    if pending:
        yield _shard(lang, number, first, pending)


def _shard(lang: str, number: int, first: int, texts: list[tuple[str, npt.NDArray[np.int32], bool]]) -> PlannedShard:
    text_ids, token_ids, truncated = zip(*texts, strict=True)
    seqs = np.arange(first, first + len(texts), dtype=np.int32)
    return PlannedShard(lang, number, seqs, text_ids, np.array(truncated), token_ids)
