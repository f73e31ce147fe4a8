"""What each text contributes to a metric at one MoE layer: counts of experts, or divergence from its translation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from moetrace.analytics.uncertainty.statistics import METRICS, Counts, Floats, Values, normalized_divergence
from moetrace.analytics.uncertainty.texts import Texts, find_texts, find_texts_and_translations
from moetrace.store.errors import MoetraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import duckdb

Weights = npt.NDArray[np.uint16]

REPLICATES_AT_ONCE = 64  # in one product: bounds memory to that many times the texts


class Samples(Protocol):
    """The texts of one MoE layer, to compute a metric's values from as often as is asked."""

    def weighted(self, weights: Weights) -> Values:
        """Return the metric for R replicates in which the texts are taken `weights` [R, text ids] times."""

    def permuted(self, shared_ids: npt.NDArray[np.intp], orders: npt.NDArray[np.uint8]) -> Values:
        """Return the metric for R orders [R, text ids, languages] that say whose text each language gets.

        `shared_ids` are the text ids that the second axis of `orders` is about; the first order changes nothing.
        """


@dataclass(frozen=True)
class CountSamples:
    """Samples of a metric that is made of counts: one sample is one text of one language.

    - counts: language -> float32 [S, E], how often each of the language's S texts chose each of E experts
    - metric: what is computed from counts [R, E] of each language
    """

    texts: Texts
    counts: Mapping[str, npt.NDArray[np.float32]]
    metric: Callable[[Counts], Values]

    @classmethod
    def read(cls, texts: Texts, layer: int, metric: Callable[[Counts], Values]) -> CountSamples:
        """Read the counts of a layer from `routes`; raise MoetraceError where those were not traced."""
        found = {}
        for lang in texts.languages:
            rows = texts.fetch(
                "select tokens.seq, routes.expert, count(*) as count from routes inner join tokens "
                "on routes.run = tokens.run and routes.lang = tokens.lang and routes.shard = tokens.shard "
                "and routes.token = tokens.token where routes.run = ? and routes.lang = ? and routes.layer = ? "
                "group by tokens.seq, routes.expert",
                texts.run,
                lang,
                layer,
            )
            if not len(rows["seq"]):
                raise MoetraceError(f"run '{texts.run}' was traced without routes: nothing can be resampled")
            count = np.zeros((len(texts.seqs[lang]), texts.num_experts), dtype=np.float32)
            count[np.searchsorted(texts.seqs[lang], rows["seq"]), rows["expert"]] = rows["count"]
            found[lang] = count
        return cls(texts, found, metric)

    def weighted(self, weights: Weights) -> Values:
        """Return the metric of the counts added up over texts taken `weights` [R, text ids] times."""
        return self.metric(
            {lang: _product(weights[:, self.texts.ids[lang]], count) for lang, count in self.counts.items()}
        )

    def permuted(self, shared_ids: npt.NDArray[np.intp], orders: npt.NDArray[np.uint8]) -> Values:
        """Return the metric where each language's counts are those of the texts it gets."""
        languages = self.texts.languages
        shared = {lang: self.counts[lang][self.texts.rows_of_ids(lang, shared_ids)] for lang in languages}
        counts: Counts = {}
        for index, lang in enumerate(languages):
            total = np.zeros((len(orders), self.texts.num_experts))
            for other, name in enumerate(languages):
                total += _product((orders[:, :, index] == other).astype(np.uint16), shared[name])
            counts[lang] = total
        return self.metric(counts)


@dataclass(frozen=True)
class TranslationSamples:
    """Samples of `pivot_similarity`: one sample is one text of one language with its translation in the pivot language.

    - divergence: language, the pivot left out -> float64 [S], the entropy-normalised divergence of each of its S texts
      from the translation; NaN where the pivot lacks the text
    """

    texts: Texts
    divergence: Mapping[str, Floats]

    @classmethod
    def read(cls, texts: Texts, layer: int) -> TranslationSamples:
        """Read the divergences of a layer from `profiles`; raise MoetraceError where those were not traced."""
        if texts.pivot is None:
            raise ValueError("these texts were found without a pivot language")
        pivot = _read_profiles(texts, texts.pivot, layer)
        found = {}
        for lang in texts.languages:
            if lang == texts.pivot:
                continue
            own, translation = _read_profiles(texts, lang, layer), texts.rows_of_ids(texts.pivot, texts.ids[lang])
            values = np.full(len(own), np.nan)
            paired = translation >= 0
            values[paired] = normalized_divergence(own[paired], pivot[translation[paired]])
            found[lang] = values
        return cls(texts, found)

    def weighted(self, weights: Weights) -> Values:
        """Return 1 - the mean divergence over texts taken `weights` [R, text ids] times."""
        return {
            (lang,): 1 - _weighted_mean(values, weights[:, self.texts.ids[lang]])
            for lang, values in self.divergence.items()
        }

    def permuted(self, shared_ids: npt.NDArray[np.intp], orders: npt.NDArray[np.uint8]) -> Values:
        """Return 1 - the mean divergence where each language gets the divergences of the texts it gets.

        The pivot keeps its texts: the others are permuted among themselves.
        """
        names = list(self.divergence)
        stacked = np.stack([self.divergence[lang][self.texts.rows_of_ids(lang, shared_ids)] for lang in names])
        kept = [self.texts.languages.index(lang) for lang in names]
        ranks = np.argsort(np.argsort(orders[:, :, kept], axis=2), axis=2)
        ranks[0] = np.arange(len(names))
        columns = np.arange(len(shared_ids))
        return {(lang,): 1 - stacked[ranks[:, :, i], columns].mean(axis=1) for i, lang in enumerate(names)}


def find_samples(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    run: str | None,
    languages: Sequence[str] | None,
    layers: Sequence[int] | None,
    arguments: Mapping[str, Any],
) -> tuple[Texts, Iterator[tuple[int, Samples]]]:
    """Return the texts that a metric is resampled over and, layer by layer, their samples, read when asked for.

    Raises UnknownNameError for an unknown metric, run, language or layer, MoetraceError for a run without texts.
    """
    if metric not in METRICS:
        raise UnknownNameError.among("metric with an uncertainty", metric, METRICS, "moetrace")
    of_counts = METRICS[metric].of_counts
    if of_counts is None:
        texts = find_texts_and_translations(connection, run, languages, layers, arguments.get("pivot_lang"))
        return texts, ((layer, TranslationSamples.read(texts, layer)) for layer in texts.layers)
    texts = find_texts(connection, run, languages, layers)
    computed = partial(of_counts, top_k=texts.top_k, **arguments)
    return texts, ((layer, CountSamples.read(texts, layer, computed)) for layer in texts.layers)


def _read_profiles(texts: Texts, lang: str, layer: int) -> Floats:
    """Return q_i of each text of a language, float64 [S, E]."""
    rows = texts.fetch(
        "select seq, expert, probability from profiles where run = ? and lang = ? and layer = ?",
        texts.run,
        lang,
        layer,
    )
    if not len(rows["seq"]):
        raise MoetraceError(f"run '{texts.run}' was traced without profiles, which pivot_similarity is made of")
    found = np.zeros((len(texts.seqs[lang]), texts.num_experts))
    found[np.searchsorted(texts.seqs[lang], rows["seq"]), rows["expert"]] = rows["probability"]
    return found


def _product(weights: Weights, counts: npt.NDArray[np.float32]) -> Floats:
    """Return weights [R, S] x counts [S, E]: exact, as counts are whole numbers below 2^53."""
    parts = [
        weights[start : start + REPLICATES_AT_ONCE].astype(np.float64) @ counts.astype(np.float64)
        for start in range(0, len(weights), REPLICATES_AT_ONCE)
    ]
    return np.concatenate(parts)


def _weighted_mean(values: Floats, weights: Weights) -> Floats:
    known = ~np.isnan(values)
    taken = weights[:, known].astype(np.float64)
    total = taken.sum(axis=1)
    with np.errstate(invalid="ignore"):  # a draw of none of the shared texts has no mean
        return (taken @ values[known]) / total  # type: ignore[no-any-return]
