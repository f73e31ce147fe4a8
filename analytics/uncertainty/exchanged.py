"""What is tested of each metric at each layer, and the same where labels are exchanged."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.analytics.uncertainty.mispairing import mispairings
from moetrace.analytics.uncertainty.permutation import Exchange
from moetrace.analytics.uncertainty.products import on_one_thread
from moetrace.analytics.uncertainty.samples import read_counts, read_profiles
from moetrace.analytics.uncertainty.statistics import Floats, activation_shares, entropy, mean_share
from moetrace.store.errors import MoetraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    from moetrace.analytics.uncertainty.mispairing import Mispairing
    from moetrace.analytics.uncertainty.samples import TextCounts
    from moetrace.analytics.uncertainty.statistics import Metric
    from moetrace.analytics.uncertainty.texts import Texts

Key = tuple[Any, ...]
Profiles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Null:
    """One key of a metric at one layer: its value, what is tested of it, and the same where labels are exchanged.

    - key: as in the frame, `against` at the end where two languages' values are compared
    - value: the metric's own value; tested: float64 [1 + R], the value tested and its null
    - texts: how many texts take part
    """

    key: Key
    value: float
    tested: Floats
    texts: int


def pairs_to_exchange(
    connection: duckdb.DuckDBPyConnection, texts: Texts, metric: Metric, against: str | None
) -> list[tuple[str, str]]:
    """Return the pairs of languages whose labels are exchanged: all, or each language with `against`.

    Raises MoetraceError where there is none, UnknownNameError for a language to compare to that is not among them.
    """
    run, name = texts.run, metric.view
    if metric.compares_pairs:
        if against is not None:
            raise MoetraceError(f"{name} compares pairs of languages: name them with languages, not with against")
        if len(texts.languages) < 2:
            raise MoetraceError(f"run '{run}': {name} compares two languages; name another beside {texts.languages[0]}")
        return list(combinations(texts.languages, 2))
    named = against is not None
    if against is None:
        row = connection.execute("select pivot_lang from runs where run = $run", {"run": run}).fetchone()
        against = row[0] if row else None
    if against is None:
        raise MoetraceError(f"run '{run}' names no pivot language to compare {name} with; name one: against")
    if against not in texts.languages and not named:
        raise MoetraceError(
            f"run '{run}': {name} is compared with the pivot, {against}, which languages leaves out; add it, or name "
            "another with against"
        )
    if against not in texts.languages:
        raise UnknownNameError.among("language", against, texts.languages, f"the comparison of {name}")
    others = [lang for lang in texts.languages if lang != against]
    if not others:
        raise MoetraceError(
            f"run '{run}': {name} of {against} alone has no null hypothesis; name another language beside it"
        )
    return [(lang, against) for lang in others]


def nulls_of_counts(
    texts: Texts,
    metric: Metric,
    pairs: list[tuple[str, str]],
    arguments: dict[str, Any],
    permutations: int,
    seed: int,
) -> Iterator[tuple[int, list[Null]]]:
    """Yield, layer by layer, the nulls of a metric that is made of counts; pairs are computed side by side."""

    def nulls(pair: tuple[str, str], counts: TextCounts) -> list[Null]:
        exchange = _exchange(texts, pair, permutations, seed)
        tested = tested_of_counts(metric, pair, counts, exchange, {"top_k": texts.top_k, **arguments})
        return [Null(key, value, found, exchange.texts) for key, (value, found) in tested.items()]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for layer in texts.layers:
            counts = read_counts(texts, layer)
            with on_one_thread():
                parts = list(pool.map(partial(nulls, counts=counts), pairs))
            yield layer, [null for part in parts for null in part]


def nulls_of_translations(texts: Texts, metric: str, permutations: int, seed: int) -> Iterator[tuple[int, list[Null]]]:
    """Yield, layer by layer, the null of each language's similarity to the pivot, or of its excess.

    Raises MoetraceError where there is no language beside the pivot, or but one text that it shares.
    """
    pairings = mispairings(texts)
    if not pairings:
        raise MoetraceError(f"run '{texts.run}': {texts.pivot} would be compared with itself; name another language")
    for lang, pairing in pairings.items():
        if len(pairing.rows) < 2:
            raise MoetraceError(f"run '{texts.run}': {lang} shares one text with {texts.pivot}: nothing to exchange")
    for layer in texts.layers:
        pivot, nulls = read_profiles(texts, str(texts.pivot), layer), []
        for lang, pairing in pairings.items():
            q, pivot_q = read_profiles(texts, lang, layer)[pairing.rows], pivot[pairing.pivot_rows]
            rng = permutations_of(seed, lang)
            tested = tested_of_translations(metric, pairing, q, pivot_q, rng, permutations)
            nulls.append(Null((lang,), float(tested[0]), tested, len(q)))
        yield layer, nulls


def tested_of_counts(
    metric: Metric, pair: tuple[str, str], counts: TextCounts, exchange: Exchange, arguments: dict[str, Any]
) -> dict[Key, tuple[float, Floats]]:
    """Return, by key, the metric's value and what is tested of it [1 + R].

    counts: language -> float32 [S, E]; arguments: of the metric, top_k among them
    """
    lang, other = pair
    exchanged = exchange.counts(counts[lang], counts[other])
    if metric.compares_pairs and metric.of_counts is not None:
        parts = [metric.of_counts({lang: own, other: others}, **arguments)[pair] for own, others in exchanged]
        tested = np.concatenate(parts)
        return {pair: (float(tested[0]), tested)}
    if metric.view == "routing_entropy":
        both = [(entropy(activation_shares(own)), entropy(activation_shares(others))) for own, others in exchanged]
        own, others = (np.concatenate(found) for found in zip(*both, strict=True))
        return {(lang, other): (float(own[0]), own - others)}
    fixed = [found.sum(axis=0, dtype=np.float64)[None] for name, found in counts.items() if name not in pair]
    rest = [activation_shares(found) for found in fixed]
    values, differences = [], []
    for own_counts, other_counts in exchanged:
        own, others = activation_shares(own_counts), activation_shares(other_counts)
        mean = mean_share([own, others, *rest])
        values.append(own[0] / mean[0])
        differences.append((own - others) / mean)
    by_expert = np.concatenate(differences).T
    return {
        (lang, expert, other): (float(of_expert), np.ascontiguousarray(found))
        for expert, (of_expert, found) in enumerate(zip(values[0], by_expert, strict=True))
    }


def tested_of_translations(
    metric: str, pairing: Mispairing, q: Profiles, pivot_q: Profiles, rng: np.random.Generator, permutations: int
) -> Floats:
    """Return the similarity or excess of texts q [S, E] to the pivot's, and that where these are exchanged, [1 + R]."""
    divergences = np.stack([pairing.divergence(q, pivot_q, shift) for shift in range(pairing.sizes.max())])
    place = np.arange(len(q))
    mispaired = 0.0 if metric == "pivot_similarity" else 1 - pairing.mispaired(q, pivot_q).mean()
    null = [1 - divergences[shifts, place].mean(axis=1) for shifts in pairing.within_blocks(rng, permutations)]
    found: Floats = np.concatenate([[1 - divergences[0].mean()], *null]) - mispaired
    return found


def permutations_of(seed: int, *languages: str) -> np.random.Generator:
    """Return what permutations are drawn from: by seed and languages, whichever others are in the call."""
    return np.random.default_rng([seed, 0, zlib.crc32(" ".join(languages).encode())])


def _exchange(texts: Texts, pair: tuple[str, str], permutations: int, seed: int) -> Exchange:
    rng = permutations_of(seed, *pair)
    if texts.parallel:
        return Exchange.of_pairs(*texts.shared_rows(*pair), rng, permutations)
    count, other_count = (len(texts.seqs[lang]) for lang in pair)
    return Exchange.of_texts(count, other_count, rng, permutations)
