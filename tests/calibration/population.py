"""A population: parallel texts of a traced store, all in memory, from which samples are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moetrace.analytics.uncertainty.mispairing import Mispairing
from moetrace.analytics.uncertainty.samples import read_counts, read_profiles
from moetrace.analytics.uncertainty.texts import find_texts_and_translations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb


@dataclass(frozen=True)
class Population:
    """The N texts that all languages have, in one order, at L layers.

    - counts, profiles: language -> float32 [L, N, E]
    - tokens: int [N], of the pivot's texts; names: their ids
    """

    counts: Mapping[str, np.ndarray]
    profiles: Mapping[str, np.ndarray]
    tokens: np.ndarray
    names: np.ndarray
    pivot: str
    top_k: int

    @property
    def size(self) -> int:
        return len(self.tokens)

    @property
    def languages(self) -> list[str]:
        return sorted(self.counts)

    @property
    def layers(self) -> int:
        return next(iter(self.counts.values())).shape[0]

    @classmethod
    def read(
        cls,
        connection: duckdb.DuckDBPyConnection,
        languages: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
    ) -> Population:
        """Read some languages and layers of the one run of a store."""
        texts = find_texts_and_translations(connection, None, languages, layers, None)
        shared = np.arange(len(texts.names))
        for ids in texts.ids.values():
            shared = np.intersect1d(shared, ids)
        rows = {lang: texts.rows_of_ids(lang, shared) for lang in texts.languages}
        counts = [read_counts(texts, layer) for layer in texts.layers]
        pivot = str(texts.pivot)
        return cls(
            counts={lang: np.stack([found[lang][rows[lang]] for found in counts]) for lang in texts.languages},
            profiles={
                lang: np.stack([read_profiles(texts, lang, layer)[rows[lang]] for layer in texts.layers])
                for lang in texts.languages
            },
            tokens=texts.tokens[pivot][texts.rows_of_ids(pivot, shared)],
            names=texts.names[shared],
            pivot=pivot,
            top_k=texts.top_k,
        )

    def mispairing(self, drawn: np.ndarray) -> Mispairing:
        """Return the blocks of a sample, the numbers of its texts in order of length: `rows` are places in `drawn`."""
        order = np.lexsort((drawn, self.tokens[drawn]))
        return Mispairing.of_order(order, order)
