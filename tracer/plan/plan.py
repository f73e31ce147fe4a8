"""The plan: a corpus tokenised once and cut into shards, always the same way for the same input and settings.

Tokens wait in a spool on disk, ids are remembered as digests: memory does not grow with the tokens of a corpus.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import MoetraceError
from moetrace.tracer.corpus.ids import IdDigests
from moetrace.tracer.plan.spool import Spool, SpooledShard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moetrace.tracer.corpus.corpus import Corpus
    from moetrace.tracer.corpus.fields import Text
    from moetrace.tracer.plan.prompts import Encode
    from moetrace.tracer.plan.shards import PlannedShard
    from moetrace.tracer.plan.token_filter import TokenFilter

PIVOTS = ("eng_Latn", "eng", "en")
BATCH_TEXTS = 1024  # texts that are tokenised at once,
BATCH_CHARACTERS = 1_000_000  # or fewer, where they are long


@dataclass(frozen=True)
class PlanSummary:
    """What there is to trace, without its shards.

    - missing: of each language, how many texts it lacks that others have; truncated: texts cut to the model's window
    """

    languages: tuple[str, ...]
    texts: int
    tokens: int
    shards: int
    pivot: str | None
    missing: Mapping[str, int]
    truncated: int


@dataclass(frozen=True)
class Plan:
    """Every shard of a run, by language, and what the run record says of the corpus.

    Sizes of shards are in memory; their tokens are read from the spool when they are asked for, until `close`.
    """

    shards: Sequence[PlannedShard]
    corpus_sha256: str
    languages: tuple[str, ...]
    pivot: str | None
    missing: dict[str, int] = field(default_factory=dict)
    selection: Mapping[str, object] = field(default_factory=dict)
    spool: Spool | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Return the number of tokens over all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def texts(self) -> int:
        """Return the number of texts over all shards."""
        return sum(shard.texts for shard in self.shards)

    @property
    def truncated(self) -> int:
        """Return how many texts were cut to the model's window."""
        return sum(shard.truncated_texts for shard in self.shards)

    def summary(self) -> PlanSummary:
        """Return what there is, without the shards."""
        return PlanSummary(
            self.languages, self.texts, self.tokens, len(self.shards), self.pivot, self.missing, self.truncated
        )

    def sizes(self) -> dict[str, list[tuple[int, int]]]:
        """Return texts and tokens of every shard of each language, as a plan's record has them."""
        found: dict[str, list[tuple[int, int]]] = {lang: [] for lang in self.languages}
        for shard in self.shards:
            found[shard.lang].append((shard.texts, shard.tokens))
        return found

    def corpus_record(self) -> dict[str, object]:
        """Return the `corpus` part of the run record; `selection` is in it where something was chosen or joined."""
        texts, tokens, shards = (dict.fromkeys(self.languages, 0) for _ in range(3))
        for shard in self.shards:
            texts[shard.lang] += shard.texts
            tokens[shard.lang] += shard.tokens
            shards[shard.lang] += 1
        record: dict[str, object] = {
            "sha256": self.corpus_sha256,
            "languages": list(self.languages),
            "pivot": self.pivot,
            "texts": texts,
            "tokens": tokens,
            "shards": shards,
            "truncated": self.truncated,
        }
        # First, because a refused run names the first fields that differ: those that a person chose.
        return {"selection": dict(self.selection), **record} if self.selection else record

    def close(self) -> None:
        """Give back the disk space of the spool; this also happens when the plan is collected or the process ends."""
        if self.spool is not None:
            self.spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_plan(
    corpus: Corpus,
    encode: Encode,
    *,
    shard_tokens: int,
    window: int,
    on_long: str = "truncate",
    pivot: str | None = None,
    limit: int | None = None,
    token_filter: TokenFilter | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Plan:
    """Tokenise a corpus and cut each language into shards of at most `shard_tokens` tokens (one text at least).

    A text of more than `window` tokens is truncated (`on_long="truncate"`) or refused (`"error"`).
    Ids that some languages lack are kept where they are and counted in `Plan.missing`.
    Raises MoetraceError for a text without tokens, a long text under "error", an unknown pivot, a language of which
    `token_filter` leaves nothing (the plan is of all tokens), or a full disk.
    """
    corpus = corpus if limit is None else corpus.first(limit)
    digest = hashlib.sha256()
    spool = Spool()
    shards: list[SpooledShard] = []
    counts: dict[str, int] = {}
    everywhere = IdDigests().sorted()
    for lang in corpus.languages:
        ids = IdDigests()
        texts = _Encoded(corpus, lang, encode, window=window, on_long=on_long, digest=digest, ids=ids)
        before = len(shards)
        shards.extend(_cut(spool, lang, texts, shard_tokens))
        counts[lang] = len(ids)
        everywhere = _union(everywhere, ids.sorted())
        if progress:
            progress(lang, sum(shard.tokens for shard in shards[before:]))
    spool.seal()
    if token_filter:
        _require_some(corpus, token_filter, shards)
    missing = {lang: len(everywhere) - count for lang, count in counts.items() if count < len(everywhere)}
    chosen = _pivot(pivot, corpus)
    return Plan(tuple(shards), digest.hexdigest(), corpus.languages, chosen, missing, corpus.selection, spool)


def _union(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # Of parallel texts, mostly the same: then nothing is merged.
    return one if np.array_equal(one, other) else np.union1d(one, other)


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
        digest: hashlib._Hash,
        ids: IdDigests,
    ) -> None:
        self._corpus, self._lang, self._encode = corpus, lang, encode
        self._window, self._on_long, self._digest, self._ids = window, on_long, digest, ids

    def __iter__(self) -> Iterator[tuple[str, npt.NDArray[np.int32], bool]]:
        for batch in _batches(self._corpus.read(self._lang)):
            for text, ids in zip(batch, self._encode([text.text for text in batch]), strict=True):
                self._digest.update(f"{self._lang}\0{text.id}\0{text.text}\0".encode())
                self._ids.add(text.id)
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


def _batches(texts: Iterator[Text]) -> Iterator[list[Text]]:
    """Yield the texts in batches, each of some texts and at most a few million characters unless one is longer."""
    batch: list[Text] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text.text)
        if len(batch) == BATCH_TEXTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _require_some(corpus: Corpus, token_filter: TokenFilter, shards: Sequence[PlannedShard]) -> None:
    """Raise MoetraceError where a filter leaves nothing of a language."""

    def keeps_some(shard: PlannedShard) -> bool:
        positions = np.concatenate([np.arange(length) for length in shard.lengths])
        return bool(token_filter.keeps(positions, positions + 1, np.concatenate(shard.token_ids)).any())

    for lang in corpus.languages:
        if not any(keeps_some(shard) for shard in shards if shard.lang == lang):
            raise MoetraceError(
                f"{corpus.source}: --skip-positions or --skip-special leave no token of any text of {lang}; "
                "skip fewer positions, or leave the language out"
            )


def _cut(spool: Spool, lang: str, texts: _Encoded, shard_tokens: int) -> Iterator[SpooledShard]:
    pending: list[tuple[str, npt.NDArray[np.int32], bool]] = []
    size = number = first = 0
    for text in texts:
        if pending and size + len(text[1]) > shard_tokens:
            yield spool.add(lang, number, first, pending)
            number, first, size, pending = number + 1, first + len(pending), 0, []
        pending.append(text)
        size += len(text[1])
    if pending:
        yield spool.add(lang, number, first, pending)
