"""Texts beside translations of other texts: what similarity to the pivot is where the sentence plays no part.

A text is exchanged only with others of about the same length, in tokens of the pivot language, because profiles of
short texts differ more. The definition is that of the view `pivot_similarity`; tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import md5
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.analytics.uncertainty.statistics import Floats, normalized_divergence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.analytics.uncertainty.texts import Texts

BLOCK = 8  # texts that are exchanged among themselves, at least
DERANGEMENTS = 3  # the view's default
TEXTS_AT_ONCE = 4096  # whose divergences are computed together


@dataclass(frozen=True)
class Mispairing:
    """The S texts that a language shares with the pivot, ordered by length and cut into blocks.

    - rows, pivot_rows: intp [S], where each of them stands among the texts of the language and of the pivot
    - starts, sizes: intp [S], where the block of each begins, and how many texts it has
    """

    rows: npt.NDArray[np.intp]
    pivot_rows: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]

    @classmethod
    def of_texts(cls, texts: Texts, lang: str) -> Mispairing:
        """Return the texts of `lang` that the pivot has; raise MoetraceError where there are none."""
        rows, pivot_rows = texts.shared_rows(lang, str(texts.pivot))
        names = texts.names[texts.ids[lang][rows]]
        order = _by_length(texts.tokens[str(texts.pivot)][pivot_rows], names)
        return cls.of_order(rows[order], pivot_rows[order])

    @classmethod
    def of_order(cls, rows: npt.NDArray[np.intp], pivot_rows: npt.NDArray[np.intp]) -> Mispairing:
        """Return the blocks of texts that are in order: one for each 8, sizes 8 to 15, all of fewer than 16 in one."""
        count = len(rows)
        blocks = max(1, count // BLOCK)
        block = np.arange(count) * blocks // count
        starts, sizes = np.searchsorted(block, np.arange(blocks)), np.bincount(block, minlength=blocks)
        return cls(rows, pivot_rows, starts[block], sizes[block])

    def divergence(self, q: npt.NDArray[Any], pivot_q: npt.NDArray[Any], shift: int) -> Floats:
        """Return the normalised divergence of each text from the pivot's text `shift` places further in its block.

        q, pivot_q: [S, E] in this order; NaN in a block of too few texts, where it would come back to itself.
        """
        partner = self._partner(shift)
        found = np.concatenate(
            [
                normalized_divergence(q[part].astype(np.float64), pivot_q[partner[part]].astype(np.float64))
                for part in _parts(len(q))
            ]
        )
        return np.where(shift < self.sizes, found, np.nan)

    def mispaired(self, q: npt.NDArray[Any], pivot_q: npt.NDArray[Any], derangements: int = DERANGEMENTS) -> Floats:
        """Return the mean divergence of each text over `derangements`; NaN for a text alone."""
        shifts = [self.divergence(q, pivot_q, shift) for shift in range(1, derangements + 1)]
        known = np.minimum(derangements, self.sizes - 1)
        with np.errstate(invalid="ignore"):
            return np.nansum(shifts, axis=0) / np.where(known > 0, known, np.nan)  # type: ignore[no-any-return]

    def excess(self, q: npt.NDArray[Any], pivot_q: npt.NDArray[Any]) -> Floats:
        """Return each text's part [S] of the view's excess, which is their mean; NaN for a text alone.

        How far a text is from a translation of another is due to both: a part has the mean divergence of the text from
        its block's translations, and of its own translation from the block's texts, less that of the whole block: the
        projection of a statistic of pairs on single texts (Hoeffding 1948), in strata. Drawing parts anew then varies
        as drawing texts anew does; the parts that a sum over texts suggests, of the first text alone, vary twice as
        much.
        """
        as_first, as_other = np.zeros(len(q)), np.zeros(len(q))
        for shift in range(1, int(self.sizes.max())):
            found = np.nan_to_num(self.divergence(q, pivot_q, shift))
            as_first += found
            as_other[self._partner(shift)] += found
        first_places = np.unique(self.starts)
        of_block = np.add.reduceat(as_first, first_places) / self.sizes[first_places]
        with np.errstate(invalid="ignore"):
            mispaired = (as_first + as_other - np.repeat(of_block, self.sizes[first_places])) / (self.sizes - 1)
        shown = self.mispaired(q, pivot_q).mean() - mispaired.mean()  # the view has few derangements, not the block
        return mispaired + shown - self.divergence(q, pivot_q, 0)  # type: ignore[no-any-return]

    def _partner(self, shift: int) -> npt.NDArray[np.intp]:
        """Return which text of the pivot each text gets, `shift` places further in its block."""
        place = np.arange(len(self.rows))
        found: npt.NDArray[np.intp] = self.starts + (place - self.starts + shift) % self.sizes
        return found

    def within_blocks(self, rng: np.random.Generator, times: int) -> Iterator[npt.NDArray[np.intp]]:
        """Yield `times` orders, [some, S] at a time, that exchange texts within their blocks at random, as shifts.

        A shift is how many places further in its block the pivot's text is that a text gets; a text may get its own.
        """
        place, at_once = np.arange(len(self.rows)), max(1, (1 << 22) // len(self.rows))
        for start in range(0, times, at_once):
            keys = rng.random((min(at_once, times - start), len(place))) + self.starts
            yield (np.argsort(keys, axis=1) - place) % self.sizes


def mispairings(texts: Texts) -> dict[str, Mispairing]:
    """Return the texts that each language but the pivot shares with it; raise MoetraceError where one shares none."""
    return {lang: Mispairing.of_texts(texts, lang) for lang in texts.languages if lang != texts.pivot}


def _by_length(tokens: npt.NDArray[np.int64], names: npt.NDArray[np.object_]) -> npt.NDArray[np.intp]:
    """Return the order of texts by tokens of the pivot, equal ones by digest of the id: neighbours may be related."""
    digests = [md5(name.encode(), usedforsecurity=False).hexdigest() for name in names]
    keys = (np.asarray(names.tolist()), np.asarray(digests), tokens)  # the last is the first that is compared
    order: npt.NDArray[np.intp] = np.lexsort(keys)
    return order


def _parts(count: int) -> list[slice]:
    return [slice(start, start + TEXTS_AT_ONCE) for start in range(0, count, TEXTS_AT_ONCE)]
