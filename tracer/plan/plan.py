"""The plan: a corpus tokenised once and cut into shards, always the same way for the same input and settings.

Texts are read, tokenised and cut part by part, tokens wait in a spool on disk, and ids are remembered as digests there
where they are many: in memory are the sizes of shards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Self

import numpy as np

from moetrace.store.errors import MoetraceError
from moetrace.tracer.plan.cut import Cut, Window
from moetrace.tracer.plan.parts import Parts
from moetrace.tracer.plan.spool import Spool, SpooledShard
from moetrace.tracer.plan.tokenising import NO_EFFORT, Effort, Tokeniser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moetrace.tracer.corpus.corpus import Corpus
    from moetrace.tracer.plan.kept import KeptParts
    from moetrace.tracer.plan.prompts import Encode
    from moetrace.tracer.plan.shards import PlannedShard
    from moetrace.tracer.plan.token_filter import TokenFilter

PIVOTS = ("eng_Latn", "eng", "en")


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
    kept: KeptParts | None = field(default=None, repr=False)

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

    def remove_kept(self) -> None:
        """Remove the tokens that were kept for the case that the trace is killed: it is whole."""
        if self.kept is not None:
            self.kept.remove()

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
    progress: Callable[[int, int], None] | None = None,
    effort: Effort = NO_EFFORT,
) -> Plan:
    """Tokenise a corpus and cut each language into shards of at most `shard_tokens` tokens (one text at least).

    A text of more than `window` tokens is truncated (`on_long="truncate"`) or refused (`"error"`).
    Ids that some languages lack are kept where they are and counted in `Plan.missing`. The plan is the same whatever
    the effort. `progress` is told of more and more texts and tokens that are planned.
    Raises MoetraceError for a text without tokens, a long text under "error", an unknown pivot, a language of which
    `token_filter` leaves nothing (the plan is of all tokens), a process that was killed, or a full disk.
    """
    corpus = corpus if limit is None else corpus.first(limit)
    parts, fits = Parts(corpus), Window(window, on_long)
    spool = Spool()
    shards: list[SpooledShard] = []
    texts = tokens = 0
    with Tokeniser(encode, effort) as tokeniser:
        for lang, portions in groupby(tokeniser.run(iter(parts)), lambda made: made.lang):
            cut = Cut(spool, lang, shard_tokens)
            for made in portions:
                fitted, truncated = fits.fit(made, corpus.source)
                shards.extend(cut.add(made.text_ids, truncated, fitted))
                texts, tokens = texts + len(made.text_ids), tokens + len(fitted.ids)
                if progress:
                    progress(texts, tokens)
            shards.extend(cut.rest())
    spool.seal()
    if token_filter:
        _require_some(corpus, token_filter, shards)
    return Plan(
        tuple(shards),
        parts.sha256.hexdigest(),
        corpus.languages,
        _pivot(pivot, corpus),
        parts.missing,
        corpus.selection,
        spool,
        effort.kept,
    )


def _pivot(asked: str | None, corpus: Corpus) -> str | None:
    if asked is None:
        return next((lang for lang in PIVOTS if lang in corpus.languages), None)
    if asked not in corpus.languages:
        raise MoetraceError(f"--pivot {asked}: not a language of {corpus.source} ({', '.join(corpus.languages[:12])})")
    return asked


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
