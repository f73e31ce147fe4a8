"""What each text contributes to a metric at one MoE layer: counts of experts, or divergence from its translation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from moetrace.analytics.uncertainty.mispairing import mispairings
from moetrace.analytics.uncertainty.statistics import METRICS, Counts, Floats, Values
from moetrace.analytics.uncertainty.texts import Texts, find_texts, find_texts_and_translations
from moetrace.store.errors import MoetraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import duckdb

    from moetrace.analytics.uncertainty.mispairing import Mispairing
    from moetrace.analytics.uncertainty.statistics import Metric

Weights = npt.NDArray[np.unsignedinteger[Any]]
TextCounts = dict[str, npt.NDArray[np.float32]]  # language -> [S, E], how often each text chose each expert

REPLICATES_AT_ONCE = 64  # in one product: bounds memory to that many times the texts


class Samples(Protocol):
    """The texts of one MoE layer, to compute a metric's values from as often as is asked."""

    def weighted(self, weights: Weights) -> Values:
        """Return the metric for R replicates in which the texts are taken `weights` [R, text ids] times."""


@dataclass(frozen=True)
class CountSamples:
    """Samples of a metric that is made of counts: one sample is one text of one language.

    - ids: language -> intp [S], which text id each of its S texts has
    - counts: language -> float32 [S, E], how often each of them chose each of E experts
    - metric: what is computed from counts [R, E] of each language
    """

    ids: Mapping[str, npt.NDArray[np.intp]]
    counts: TextCounts
    metric: Callable[[Counts], Values]

    def weighted(self, weights: Weights) -> Values:
        """Return the metric of the counts added up over texts taken `weights` [R, text ids] times."""
        return self.metric({lang: _product(weights[:, self.ids[lang]], count) for lang, count in self.counts.items()})


@dataclass(frozen=True)
class TranslationSamples:
    """Samples of a metric that is a mean over texts and their translations in the pivot language.

    - ids: language -> intp [S], which text id each of its texts that the pivot has too has
    - values: language -> float64 [S], what each of them has
    """

    ids: Mapping[str, npt.NDArray[np.intp]]
    values: Mapping[str, Floats]

    def weighted(self, weights: Weights) -> Values:
        """Return the mean over texts taken `weights` [R, text ids] times."""
        found: Values = {}
        for lang, values in self.values.items():
            taken = weights[:, self.ids[lang]].astype(np.float64)
            with np.errstate(invalid="ignore"):  # a draw of none of the shared texts has no mean
                found[lang,] = (taken @ values) / taken.sum(axis=1)
        return found


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
    of_counts = known_metric(metric).of_counts
    if of_counts is None:
        texts = find_texts_and_translations(connection, run, languages, layers, arguments.get("pivot_lang"))
        pairings = mispairings(texts)
        return texts, ((layer, read_translations(texts, layer, metric, pairings)) for layer in texts.layers)
    texts = find_texts(connection, run, languages, layers)
    computed = partial(of_counts, top_k=texts.top_k, **arguments)
    return texts, ((layer, CountSamples(texts.ids, read_counts(texts, layer), computed)) for layer in texts.layers)


def known_metric(name: str) -> Metric:
    """Return a metric that can be resampled; raise UnknownNameError where there is none of this name."""
    if name not in METRICS:
        raise UnknownNameError.among("metric with an uncertainty", name, METRICS, "moetrace")
    return METRICS[name]


def read_counts(texts: Texts, layer: int) -> TextCounts:
    """Return how often each text chose each expert of a layer; raise MoetraceError where routes were not traced."""
    # Tokens of some texts stand in a table, which a layer is joined with in a third of the time.
    tokens = f"{texts.drawn} as tokens on" if texts.drawn else "tokens on routes.run = tokens.run and"
    rows = texts.fetch(
        "select list_position($languages, routes.lang) - 1 as lang, tokens.seq, routes.expert, count(*) as count "
        f"from routes inner join {tokens} routes.lang = tokens.lang "
        "and routes.shard = tokens.shard and routes.token = tokens.token "
        "where routes.run = $run and list_contains($languages, routes.lang) and routes.layer = $layer group by all",
        languages=texts.languages,
        run=texts.run,
        layer=layer,
    )
    if not len(rows["seq"]):
        raise MoetraceError(f"run '{texts.run}' was traced without routes: nothing can be resampled")
    found = {}
    for number, lang in enumerate(texts.languages):
        mine = rows["lang"] == number
        counts = np.zeros((len(texts.seqs[lang]), texts.num_experts), dtype=np.float32)
        counts[np.searchsorted(texts.seqs[lang], rows["seq"][mine]), rows["expert"][mine]] = rows["count"][mine]
        found[lang] = counts
    return found


def read_profiles(texts: Texts, lang: str, layer: int) -> npt.NDArray[np.float32]:
    """Return q_i of each text of a language, float32 [S, E]; raise MoetraceError where profiles were not traced."""
    only, drawn = (
        ("and seq in (select unnest($seqs))", {"seqs": texts.seqs[lang].tolist()}) if texts.drawn else ("", {})
    )
    rows = texts.fetch(
        f"select seq, expert, probability from profiles where run = $run and lang = $lang and layer = $layer {only}",
        run=texts.run,
        lang=lang,
        layer=layer,
        **drawn,
    )
    if not len(rows["seq"]):
        raise MoetraceError(f"run '{texts.run}' was traced without profiles, which pivot_similarity is made of")
    found = np.zeros((len(texts.seqs[lang]), texts.num_experts), dtype=np.float32)
    found[np.searchsorted(texts.seqs[lang], rows["seq"]), rows["expert"]] = rows["probability"]
    return found


def read_translations(texts: Texts, layer: int, metric: str, pairings: Mapping[str, Mispairing]) -> TranslationSamples:
    """Return what each text has of `pivot_similarity` or `pivot_excess`; errors as `read_profiles`."""
    pivot = read_profiles(texts, str(texts.pivot), layer)
    ids, values = {}, {}
    for lang, pairing in pairings.items():
        q, pivot_q = read_profiles(texts, lang, layer)[pairing.rows], pivot[pairing.pivot_rows]
        ids[lang] = texts.ids[lang][pairing.rows]
        values[lang] = parts_of_translations(metric, pairing, q, pivot_q)
    return TranslationSamples(ids, values)


def parts_of_translations(metric: str, pairing: Mispairing, q: npt.NDArray[Any], pivot_q: npt.NDArray[Any]) -> Floats:
    """Return each text's part [S] of `pivot_similarity` or `pivot_excess`; q, pivot_q [S, E] in the pairing's order."""
    return 1 - pairing.divergence(q, pivot_q, 0) if metric == "pivot_similarity" else pairing.excess(q, pivot_q)


def _product(weights: Weights, counts: npt.NDArray[np.float32]) -> Floats:
    """Return weights [R, S] x counts [S, E]: exact, as counts are whole numbers below 2^53."""
    wide = counts.astype(np.float64)
    parts = [
        weights[start : start + REPLICATES_AT_ONCE].astype(np.float64) @ wide
        for start in range(0, len(weights), REPLICATES_AT_ONCE)
    ]
    return np.concatenate(parts)
