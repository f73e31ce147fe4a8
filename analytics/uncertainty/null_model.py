"""Null models: what a metric would be if it made no difference which of two languages a text is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.analytics.uncertainty.exchanged import nulls_of_counts, nulls_of_translations, pairs_to_exchange
from moetrace.analytics.uncertainty.permutation import check_ties, p_value, standardised
from moetrace.analytics.uncertainty.samples import known_metric
from moetrace.analytics.uncertainty.texts import find_texts, find_texts_and_translations
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import polars as pl

    from moetrace.analytics.uncertainty.exchanged import Key
    from moetrace.analytics.uncertainty.permutation import Ties
    from moetrace.analytics.uncertainty.statistics import Floats


def null_model(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    against: str | None = None,
    permutations: int = 1000,
    level: float = 0.95,
    ties: Ties = "half",
    seed: int = 0,
    **arguments: Any,
) -> pl.DataFrame:
    """Return a metric with what it is under a null hypothesis, and how likely a value as extreme is then.

    The hypothesis is always about two languages, whatever others are asked for in the same call:

    - jaccard, divergence: a text and its translation are exchangeable between the two languages of the pair. The
      labels of each text id are exchanged at random; p is one-sided (less overlap, more divergence than chance)
    - routing_entropy, specificity: the same for a language and `against` (the run's pivot where None); what is tested
      is the `difference` of their values, two-sided. Specificity's mean runs over `languages`, of which only these two
      are exchanged
    - pivot_similarity, pivot_excess: it makes no difference which of some texts of about the same length a text is
      compared to. The pivot's texts are exchanged within blocks of 8 to 15; p is one-sided (more similar than chance)

    columns: layer, the metric's keys, against where there is one, texts (that take part), the metric's value over
    them, difference where one is tested, null_mean, null_lower, null_upper (of what is tested, at `level`), p_value
    (that layer's), p_layers (corrected for looking at several layers: the chance that the most extreme of them is as
    extreme, in standard deviations of each layer's null; single-step maximum statistic, Westfall & Young 1993)

    ties: how permutations as extreme as the value count: half (the default, a mid-p), all (never too small a p), or
    random (uniform also where few values are possible, as of jaccard; seeded). The value itself counts in full but for
    random.

    Only texts that both languages have take part; where text ids are not parallel, all texts do, and are dealt out
    again to the two. Permutations are the same in every layer. Raises as `bootstrap`, and MoetraceError where nothing
    can be exchanged: one language alone, or a language against itself.
    """
    import polars as pl  # noqa: PLC0415

    check_ties(ties)
    if permutations < 1 or not 0 < level < 1:
        raise MoetraceError(
            f"permutations {permutations}, level {level:g}: pass at least 1, and a level between 0 and 1"
        )
    described = known_metric(metric)
    if described.of_counts is None:
        texts = find_texts_and_translations(connection, run, languages, layers, arguments.get("pivot_lang"))
        by_layer = nulls_of_translations(texts, metric, permutations, seed)
    else:
        texts = find_texts(connection, run, languages, layers)
        pairs = pairs_to_exchange(connection, texts, described, against)
        by_layer = nulls_of_counts(texts, described, pairs, arguments, permutations, seed)
    tails = ((1 - level) / 2, (1 + level) / 2)
    rng = np.random.default_rng([seed, 1])  # for ties at random
    has_difference = described.alternative == "two-sided"
    rows: list[tuple[Any, ...]] = []
    deviations: list[tuple[Key, float]] = []
    most: dict[Key, Floats] = {}  # of each key, the most extreme layer in each permutation
    for layer, nulls in by_layer:
        for null in nulls:
            extreme = standardised(null.tested, described.alternative)
            most[null.key] = np.fmax(most.get(null.key, extreme), extreme)
            deviations.append((null.key, float(extreme[0])))
            difference = (float(null.tested[0]),) if has_difference else ()
            p = p_value(null.tested, described.alternative, ties, rng)
            rows.append((layer, *null.key, null.texts, null.value, *difference, *_summary(null.tested[1:], tails), p))
    for number, (key, deviation) in enumerate(deviations):
        over_layers = np.concatenate([[deviation], most[key][1:]])
        rows[number] += (p_value(over_layers, "greater", ties, rng),)
    keys = ["layer", *described.keys, *(["against"] if has_difference else [])]
    tested = [described.column, *(["difference"] if has_difference else [])]
    columns = [*keys, "texts", *tested, "null_mean", "null_lower", "null_upper", "p_value", "p_layers"]
    return pl.DataFrame(rows, schema=columns, orient="row").sort(keys)


def _summary(null: Floats, tails: tuple[float, float]) -> tuple[float, float, float]:
    known = null[~np.isnan(null)]
    if not len(known):
        return np.nan, np.nan, np.nan
    lower, upper = np.quantile(known, tails)
    return float(known.mean()), float(lower), float(upper)
