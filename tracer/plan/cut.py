"""Cutting the texts of a language into shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import MoetraceError
from moetrace.tracer.plan.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from moetrace.tracer.plan.spool import Spool, SpooledShard
    from moetrace.tracer.plan.tokenising import Tokenised


@dataclass(frozen=True)
class Window:
    """How many tokens a text may have, and what is done with longer ones: "truncate" or "error"."""

    tokens: int
    on_long: str = "truncate"

    def fit(self, made: Tokenised, source: str) -> tuple[Tokens, npt.NDArray[np.bool_]]:
        """Return tokens without what is beyond the window, and which texts were cut.

        Raises MoetraceError, naming the text, for one without tokens and, under "error", for a long one.
        """
        tokens = made.tokens
        lengths, long = tokens.lengths, tokens.lengths > self.tokens
        refused = (lengths == 0) | (long if self.on_long == "error" else False)
        if refused.any():
            at = int(np.argmax(refused))
            where = f"{source}: text '{made.text_ids[at]}' of {made.lang}"
            if not lengths[at]:
                raise MoetraceError(f"{where} has no tokens; remove it")
            raise MoetraceError(
                f"{where} has {lengths[at]} tokens, the window is {self.tokens}; split it or --on-long truncate"
            )
        if not long.any():
            return tokens, long
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        kept = np.arange(len(tokens.ids)) - np.repeat(starts, lengths) < self.tokens
        return Tokens(np.minimum(lengths, np.int32(self.tokens)), tokens.ids[kept]), long


class Cut:
    """Cuts one language into shards of at most `shard_tokens` tokens, one text at least, and spools them."""

    def __init__(self, spool: Spool, lang: str, shard_tokens: int) -> None:
        self._spool, self._lang, self._most = spool, lang, shard_tokens
        self._number = self._first = 0
        self._text_ids: list[str] = []  # of texts that are not in a shard yet, as are the others
        self._truncated = np.empty(0, np.bool_)
        self._tokens = Tokens(np.empty(0, np.int32), np.empty(0, np.int32))

    def add(self, text_ids: list[str], truncated: npt.NDArray[np.bool_], tokens: Tokens) -> Iterator[SpooledShard]:
        """Take the next texts of the language, each of a token or more; yield the shards that are full now."""
        self._text_ids = self._text_ids + text_ids
        self._truncated = np.concatenate([self._truncated, truncated])
        lengths = np.concatenate([self._tokens.lengths, tokens.lengths])
        self._tokens = Tokens(lengths, np.concatenate([self._tokens.ids, tokens.ids]))
        ends = np.cumsum(lengths, dtype=np.int64)
        start, before = 0, 0
        while ends[-1] - before > self._most:
            end = max(start + 1, int(np.searchsorted(ends, before + self._most, side="right")))
            yield self._shard(start, end, before, int(ends[end - 1]))
            start, before = end, int(ends[end - 1])
        self._text_ids, self._truncated = self._text_ids[start:], self._truncated[start:]
        self._tokens = Tokens(lengths[start:], self._tokens.ids[before:])

    def rest(self) -> Iterator[SpooledShard]:
        """Yield the last shard of the language, where texts are left."""
        if self._text_ids:
            yield self._shard(0, len(self._text_ids), 0, len(self._tokens.ids))

    def _shard(self, start: int, end: int, before: int, after: int) -> SpooledShard:
        tokens = Tokens(self._tokens.lengths[start:end], self._tokens.ids[before:after])
        shard = self._spool.add(
            self._lang, self._number, self._first, self._text_ids[start:end], self._truncated[start:end], tokens
        )
        self._number, self._first = self._number + 1, self._first + end - start
        return shard
