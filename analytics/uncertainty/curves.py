"""Curves over the depth of a model with what they would be of other texts: for intervals of means and of differences.

What `bootstrap` says of single languages and pairs, this says of means over them, and of how two layers, two languages
or two runs differ: replicates stay together, so that whatever is computed of curves has an interval too.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moetrace.analytics.uncertainty.mispairing import mispairings
from moetrace.analytics.uncertainty.products import on_one_thread
from moetrace.analytics.uncertainty.samples import TranslationSamples, parts_of_translations, read_counts, read_profiles
from moetrace.analytics.uncertainty.statistics import activation_shares, entropy, expert_set, part_of_room
from moetrace.analytics.uncertainty.texts import find_texts, find_texts_and_translations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    import numpy.typing as npt

    from moetrace.analytics.uncertainty.statistics import Floats
    from moetrace.analytics.uncertainty.texts import Texts

LEVEL = 0.95
REPLICATES = 400
MOST_LANGUAGES = 32  # whose texts are drawn: 496 pairs
MOST_TEXTS = 256  # of a language that are drawn from
FEWEST_TEXTS = 40  # that are drawn from, however long they are
MOST_DECISIONS = 40_000_000  # of the texts that are drawn from


@dataclass(frozen=True)
class Curve:
    """A number by MoE layer, [L], and what it is in R replicates, [R, L]; what is computed of curves is a curve.

    kind: the interval. `basic` and `percentile` are those of `intervals.interval_of`; `wide` is for sets of experts,
    whose edges jump, so that draws do not tell how wrong a mean of them is (docs/statistics.md): from the lower of both
    to the higher of both, and for a difference as far as the ends of the two are apart
    """

    values: Floats
    replicates: Floats
    kind: Literal["basic", "percentile", "wide"] = "basic"
    parts: tuple[Curve, Curve] | None = None  # of a difference whose interval is made of theirs

    def interval(self, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Return the ends of the interval of each layer, [L] each."""
        if self.parts:
            (low, high), (other_low, other_high) = (part.interval(level) for part in self.parts)
            return low - other_high, high - other_low
        low, high = np.nanquantile(self.replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
        basic = 2 * self.values - high, 2 * self.values - low
        if self.kind == "wide":
            return np.minimum(low, basic[0]), np.maximum(high, basic[1])
        return (low, high) if self.kind == "percentile" else basic

    def around(self, values: npt.ArrayLike) -> Curve:
        """Return the curve of other values, of all texts, with deviations of the texts that were drawn from."""
        found = np.asarray(values, dtype=np.float64)
        return replace(self, values=found, replicates=self.replicates - self.values + found)

    def at(self, places: Sequence[int]) -> Curve:
        """Return some of the layers, by their places."""
        values, replicates = self.values[list(places)], self.replicates[:, list(places)]
        parts = self.parts and (self.parts[0].at(places), self.parts[1].at(places))
        return replace(self, values=values, replicates=replicates, parts=parts)

    def mean(self) -> Curve:
        """Return the mean over layers, as a curve of one."""
        return replace(
            self, values=self.values.mean(keepdims=True), replicates=self.replicates.mean(axis=1, keepdims=True)
        )

    def minus(self, other: Curve) -> Curve:
        """Return the difference of two curves, layer by layer, or of a curve and one of a single place."""
        other = other.at([0] * len(self.values)) if len(other.values) == 1 else other
        found = replace(self, values=self.values - other.values, replicates=self.replicates - other.replicates)
        return replace(found, parts=(self, other)) if self.kind == "wide" else found

    def scaled(self, factor: float) -> Curve:
        """Return every value times a factor."""
        return replace(self, values=self.values * factor, replicates=self.replicates * factor)

    @classmethod
    def mean_of(cls, curves: Sequence[Curve]) -> Curve:
        """Return the mean of some curves of the same draws, layer by layer."""
        values = np.mean([curve.values for curve in curves], axis=0)
        return cls(values, np.mean([curve.replicates for curve in curves], axis=0), curves[0].kind)

    @classmethod
    def side_by_side(cls, curves: Sequence[Curve]) -> Curve:
        """Return curves of the same draws one after another, as one that is as long as all of them."""
        values = np.concatenate([curve.values for curve in curves])
        return cls(values, np.concatenate([curve.replicates for curve in curves], axis=1), curves[0].kind)


@dataclass(frozen=True)
class Drawn:
    """What replicates are made of: the languages, the text ids that were drawn from, of how many, and the time it took.

    - text_ids, of_text_ids: of all languages together where ids are parallel, else of the language with the most
    - names: the text ids; curves of the same names, languages and seed have the same draws
    """

    languages: tuple[str, ...]
    text_ids: int
    of_text_ids: int
    replicates: int
    seconds: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class CountCurves:
    """Curves that are made of counts of experts.

    - isolation, jsd, jsd_normalized: means over the pairs of the drawn languages
    - isolation_floor, jsd_floor, jsd_normalized_floor: the same of two samples of one language, each of as many texts
      as it has, the mean over languages: what is left where languages do not differ
    - entropy: language -> its entropy, nats
    - jaccard: pair of languages -> its Jaccard overlap, the mean over layers, a curve of one
    """

    drawn: Drawn
    isolation: Curve
    jsd: Curve
    jsd_normalized: Curve
    isolation_floor: Curve
    jsd_floor: Curve
    jsd_normalized_floor: Curve
    entropy: Mapping[str, Curve]
    jaccard: Mapping[tuple[str, str], Curve]


@dataclass(frozen=True)
class TranslationCurves:
    """Curves of a language beside the pivot language: language -> similarity, and -> excess."""

    drawn: Drawn
    similarity: Mapping[str, Curve]
    excess: Mapping[str, Curve]


def count_curves(
    connection: duckdb.DuckDBPyConnection,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    replicates: int = REPLICATES,
    most_texts: int = MOST_TEXTS,
    seed: int = 0,
) -> CountCurves:
    """Return isolation, divergence and entropy by layer, of some languages, with `replicates` draws of their texts.

    Text ids are drawn with replacement, as `bootstrap` does it. Where there are more than `most_texts`, some are taken
    at random and as many as there are drawn from these (a bag of little bootstraps of one bag, Kleiner et al. 2014):
    deviations are then of all texts, but values of some, and `Curve.around` takes the values of all.

    The floor is made of replicates two by two: two draws of one language's texts, which differ as two corpora of it do.

    Needs routes. Raises UnknownNameError for an unknown run or language, MoetraceError for a run without texts or
    routes.
    """
    started = time.perf_counter()
    every = find_texts(connection, run, languages, None)
    texts, weights = _draws(every, most_texts, replicates, seed)
    pairs = list(combinations(sorted(texts.languages), 2))
    jaccard = np.zeros((len(pairs), len(weights)))  # summed over layers
    layers = [replicated(read_counts(texts, layer), texts.ids, texts.top_k, weights, jaccard) for layer in texts.layers]
    jaccard /= len(layers)

    def curve(name: str) -> Curve:
        found = np.stack([layer[name] for layer in layers], axis=1)  # [1 + R, L]
        return Curve(found[0], found[1:], "wide" if name == "isolation" else "basic")

    def floor(name: str) -> Curve:
        found = np.stack([layer[name] for layer in layers], axis=1)  # [R / 2, L]
        return Curve(found.mean(axis=0), found, "percentile")

    return CountCurves(
        drawn=_drawn(texts, every, replicates, started),
        **{name: curve(name) for name in ("isolation", "jsd", "jsd_normalized")},
        **{f"{name}_floor": floor(f"{name}_floor") for name in ("isolation", "jsd", "jsd_normalized")},
        entropy={lang: curve(f"entropy of {lang}") for lang in texts.languages},
        jaccard={pair: Curve(found[:1], found[1:, None], "wide") for pair, found in zip(pairs, jaccard, strict=True)},
    )


def translation_curves(
    connection: duckdb.DuckDBPyConnection,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    replicates: int = REPLICATES,
    most_texts: int = MOST_TEXTS,
    seed: int = 0,
) -> TranslationCurves:
    """Return similarity to the run's pivot language and excess by layer, of some languages, with draws of their texts.

    Drawn as `count_curves` does it, so that curves of both have the same draws where no text lacks a translation. A
    language that shares no text with the pivot has none. Needs profiles and parallel text ids; raises as that, and
    MoetraceError for a run without a pivot language.
    """
    started = time.perf_counter()
    every = find_texts_and_translations(connection, run, languages, None, None)
    texts, weights = _draws(every, most_texts, replicates, seed)
    shared = [lang for lang in texts.languages if np.isin(texts.ids[lang], texts.ids[str(texts.pivot)]).any()]
    pairings = mispairings(replace(texts, languages=shared))
    found: dict[str, dict[str, list[Floats]]] = {"pivot_similarity": {}, "pivot_excess": {}}
    for layer in texts.layers:
        pivot = read_profiles(texts, str(texts.pivot), layer)
        for lang, pairing in pairings.items():
            q, pivot_q = read_profiles(texts, lang, layer)[pairing.rows], pivot[pairing.pivot_rows]
            for metric, by_language in found.items():
                parts = TranslationSamples(
                    {lang: texts.ids[lang][pairing.rows]},
                    {lang: parts_of_translations(metric, pairing, q, pivot_q)},
                )
                with on_one_thread():
                    by_language.setdefault(lang, []).append(parts.weighted(weights)[lang,])
    curves = {
        metric: {
            lang: Curve(np.stack(each, axis=1)[0], np.stack(each, axis=1)[1:]) for lang, each in by_language.items()
        }
        for metric, by_language in found.items()
    }
    return TranslationCurves(
        _drawn(texts, every, replicates, started), curves["pivot_similarity"], curves["pivot_excess"]
    )


def replicated(
    counts: Mapping[str, npt.NDArray[np.float32]],
    ids: Mapping[str, npt.NDArray[np.intp]],
    top_k: int,
    weights: npt.NDArray[np.unsignedinteger[Any]],
    jaccard: Floats,
) -> dict[str, Floats]:
    """Return what a layer has: [1 + R] of the texts as they are and of the draws, [R / 2] of the floors.

    counts: language -> [S, E] of its texts; ids: language -> [S], their text ids; weights: [1 + R, text ids]
    jaccard: [pairs, 1 + R], to which the layer's is added, pairs in the order of their names
    """
    experts = next(iter(counts.values())).shape[1]
    size = min(top_k, experts)
    shares, spread, sets = {}, {}, {}
    with on_one_thread():
        for lang, found in counts.items():
            added = weights[:, ids[lang]].astype(np.float64) @ found.astype(np.float64)
            shares[lang], sets[lang] = activation_shares(added), expert_set(added, size)
            spread[lang] = entropy(shares[lang])
        room = np.log(experts)

        def compare(a: str, b: str, at: slice, beside: slice) -> tuple[Floats, Floats, Floats]:
            both = np.count_nonzero(sets[a][at] & sets[b][beside], axis=1)
            halves = (spread[a][at] + spread[b][beside]) / 2
            jsd = np.maximum(entropy((shares[a][at] + shares[b][beside]) / 2) - halves, 0)
            return 1 - both / (2 * size - both), jsd, part_of_room(jsd, room - halves)

        whole, half = slice(None), (len(weights) - 1) // 2
        first, second = slice(1, 1 + half), slice(1 + half, 1 + 2 * half)
        compared = [compare(a, b, whole, whole) for a, b in combinations(sorted(shares), 2)]
        if compared:
            jaccard += 1 - np.stack([isolation for isolation, *_ in compared])
        selves = [compare(lang, lang, first, second) for lang in sorted(shares)]
    names = ("isolation", "jsd", "jsd_normalized")
    unknown = np.full(len(weights), np.nan)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a draw in which no language has a text
        made = {
            name: np.nanmean([pair[at] for pair in compared], axis=0) if compared else unknown
            for at, name in enumerate(names)
        }
    made |= {f"{name}_floor": np.nanmean([each[at] for each in selves], axis=0) for at, name in enumerate(names)}
    return made | {f"entropy of {lang}": found for lang, found in spread.items()}


def _draws(every: Texts, most: int, replicates: int, seed: int) -> tuple[Texts, npt.NDArray[np.uint32]]:
    """Return the texts that are drawn from, and how often each text id is taken, [1 + R, text ids]."""
    rng = np.random.default_rng(seed)
    texts = every.some(_affordable(every, most), rng)
    return texts, _weights(texts, every, replicates, rng)


def _affordable(texts: Texts, most: int) -> int:
    """Return how many text ids are drawn from: at most `most`, and of no more than MOST_DECISIONS if that is enough."""
    tokens = sum(int(texts.tokens[lang].sum()) for lang in texts.languages)
    ids = max(len(texts.names) / (1 if texts.parallel else max(len(texts.languages), 1)), 1)
    decisions = max(tokens / ids * len(texts.layers) * texts.top_k, 1)  # of one text id, in all languages
    return min(most, max(FEWEST_TEXTS, int(MOST_DECISIONS / decisions)))


def _weights(texts: Texts, every: Texts, replicates: int, rng: np.random.Generator) -> npt.NDArray[np.uint32]:
    """Return how often each text id is taken, [1 + R, text ids]: once, then in each draw of as many as there are."""
    weights = np.ones((1 + replicates, len(texts.names)), dtype=np.uint32)
    groups = (
        [(np.arange(len(texts.names)), len(every.names))]
        if texts.parallel
        else [(ids, len(every.ids[lang])) for lang, ids in texts.ids.items()]
    )
    for ids, times in groups:
        if len(ids):
            weights[1:, ids] = rng.multinomial(times, np.full(len(ids), 1 / len(ids)), size=replicates)
    return weights


def _drawn(texts: Texts, every: Texts, replicates: int, started: float) -> Drawn:
    def count(of: Texts) -> int:
        return len(of.names) if of.parallel else max(len(of.ids[lang]) for lang in of.languages)

    return Drawn(
        languages=tuple(texts.languages),
        text_ids=count(texts),
        of_text_ids=count(every),
        replicates=replicates,
        seconds=time.perf_counter() - started,
        names=tuple(texts.names.tolist()),
    )
