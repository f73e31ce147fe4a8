"""What the outcomes of items say of each arm, and of two arms against each other, item by item.

Every metric is a ratio of sums over items: accuracy is right answers over items, bits_per_byte bits over bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.uncertainty.bootstrap import drawn
from moetrace.analytics.uncertainty.intervals import check_interval, interval_of
from moetrace.analytics.uncertainty.products import on_one_thread
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.analytics.uncertainty.samples import Weights
    from moetrace.analytics.uncertainty.statistics import Floats

EVERY = "(mean)"  # over languages; no language can be called so
COLUMNS = ("arm", "lang", "id", "metric", "numerator", "denominator")


@dataclass(frozen=True)
class Comparison:
    """An arm, and those it is compared with, whose items' outcomes are averaged: `against` is what they are called."""

    arm: str
    against: str
    others: tuple[str, ...]


def scores(outcomes: pl.DataFrame, *, replicates: int = 1000, level: float = 0.95, seed: int = 0) -> pl.DataFrame:
    """Return each arm's value of each metric in each language, and the mean over languages (lang `(mean)`).

    - outcomes: a row for each arm, lang, id and metric, with numerator and denominator
    - columns: arm, metric, lang, items, value, lower, upper (a basic bootstrap interval, drawn as in `compared`)
    """
    tables = _Tables(outcomes, replicates, level, seed)
    rows = []
    for metric in tables.metrics:
        for arm in tables.arms:
            for lang, ratio in tables.ratios(metric, [arm]).items():
                ends = interval_of("basic", ratio.value, ratio.replicates, level)
                rows.append((arm, metric, lang, ratio.items, ratio.value, *ends))
    schema = {
        "arm": pl.String, "metric": pl.String, "lang": pl.String, "items": pl.Int64,
        "value": pl.Float64, "lower": pl.Float64, "upper": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def compared(
    outcomes: pl.DataFrame,
    comparisons: Sequence[Comparison],
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pl.DataFrame:
    """Return the difference of each comparison in each language, and of the means over languages (lang `(mean)`).

    - outcomes: as of `scores`
    - columns: arm, against, metric, lang, items (those that all arms have), value, other, difference, lower, upper (a
      basic bootstrap interval: item ids are drawn with replacement, the same for both arms and for all languages, whose
      items may be translations of each other), and, where outcomes are right or wrong and the other arm is one alone:
      better and worse (items that the arm alone has right, or alone wrong) and p (McNemar's exact test of these)

    Source: Efron (1979); McNemar (1947), exact as a binomial test. Raises MoetraceError for an arm that is not there.
    """
    tables = _Tables(outcomes, replicates, level, seed)
    rows = []
    for metric in tables.metrics:
        for one in comparisons:
            mine, others = tables.paired(metric, one)
            for lang, ratio in mine.items():
                other = others[lang]
                difference = ratio.value - other.value
                ends = interval_of("basic", difference, ratio.replicates - other.replicates, level)
                changes = tables.changes(metric, one, lang)
                rows.append(
                    (one.arm, one.against, metric, lang, ratio.items, ratio.value, other.value, difference, *ends)
                    + (changes or (None, None, None))
                )
    schema = {
        "arm": pl.String, "against": pl.String, "metric": pl.String, "lang": pl.String, "items": pl.Int64,
        "value": pl.Float64, "other": pl.Float64, "difference": pl.Float64, "lower": pl.Float64, "upper": pl.Float64,
        "better": pl.Int64, "worse": pl.Int64, "p": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def mcnemar(better: int, worse: int) -> float:
    """Return the p-value, two-sided, of as uneven a split of the items that changed, were both ways as likely.

    Exact: twice the lesser tail of the binomial distribution with chance 1/2, at most 1 (McNemar 1947).
    """
    changed, least = better + worse, min(better, worse)
    term, tail = 1, 0
    for count in range(least + 1):
        tail += term
        term = term * (changed - count) // (count + 1)
    return min(1.0, 2 * tail / (1 << changed))


@dataclass(frozen=True)
class _Ratio:
    """A ratio of sums over items, and of every replicate [R] of them."""

    items: int
    value: float
    replicates: Floats


class _Tables:
    """Outcomes as arrays over item ids, and the draws of these that all languages and arms share."""

    def __init__(self, outcomes: pl.DataFrame, replicates: int, level: float, seed: int) -> None:
        check_interval("basic", level)
        if replicates < 2:
            raise MoetraceError(f"replicates {replicates}: pass at least 2, 1000 or more for an interval")
        ids = outcomes["id"].unique().sort()
        place = {name: at for at, name in enumerate(ids)}
        self.metrics = outcomes["metric"].unique(maintain_order=True).to_list()
        self.arms = outcomes["arm"].unique(maintain_order=True).to_list()
        self.languages = outcomes["lang"].unique().sort().to_list()
        self._weights: Weights = drawn(np.random.default_rng(seed), len(ids), replicates)
        self._sums: dict[tuple[str, str, str], Floats] = {}
        for (metric, arm, lang), rows in outcomes.group_by("metric", "arm", "lang"):
            found = np.full((2, len(ids)), np.nan)
            found[:, [place[name] for name in rows["id"]]] = rows.select("numerator", "denominator").to_numpy().T
            self._sums[str(metric), str(arm), str(lang)] = found

    def ratios(self, metric: str, arms: Sequence[str], common: Mapping[str, Floats] | None = None) -> dict[str, _Ratio]:
        """Return the ratios of some arms, averaged item by item, of each language and the mean over them.

        common: language -> bool [ids], which items count; None: those that the arms have
        """
        found: dict[str, _Ratio] = {}
        for lang in self.languages:
            tables = [self._sums[metric, arm, lang] for arm in arms if (metric, arm, lang) in self._sums]
            if not tables or (common is not None and lang not in common):
                continue
            sums = np.mean(tables, axis=0)
            known = ~np.isnan(sums[0]) if common is None else common[lang]
            with on_one_thread(), np.errstate(invalid="ignore"):
                drawn_sums = self._weights[:, known].astype(np.float64) @ sums[:, known].T
                replicated = drawn_sums[:, 0] / drawn_sums[:, 1]
            numerator, denominator = sums[:, known].sum(axis=1)
            value = float(numerator / denominator) if denominator else np.nan
            found[lang] = _Ratio(int(known.sum()), value, replicated)
        if len(found) > 1:
            every = list(found.values())
            mean = np.mean([one.replicates for one in every], axis=0)
            found[EVERY] = _Ratio(sum(one.items for one in every), float(np.mean([one.value for one in every])), mean)
        return found

    def paired(self, metric: str, comparison: Comparison) -> tuple[dict[str, _Ratio], dict[str, _Ratio]]:
        """Return the ratios of both sides over the items that all of the arms have."""
        arms = [comparison.arm, *comparison.others]
        for arm in arms:
            if arm not in self.arms:
                raise MoetraceError(f"there are no outcomes of {arm}; there are {', '.join(self.arms)}")
        common = {
            lang: np.all([~np.isnan(self._sums[metric, arm, lang][0]) for arm in arms], axis=0)
            for lang in self.languages
            if all((metric, arm, lang) in self._sums for arm in arms)
        }
        return self.ratios(metric, arms[:1], common), self.ratios(metric, arms[1:], common)

    def changes(self, metric: str, comparison: Comparison, lang: str) -> tuple[int, int, float] | None:
        """Return how many items the arm alone has right and alone wrong, and McNemar's p.

        None where that means nothing: of several draws, of sums, of languages together, which share items.
        """
        if len(comparison.others) > 1 or lang == EVERY:
            return None
        mine, other = (self._sums[metric, arm, lang] for arm in (comparison.arm, comparison.others[0]))
        known = ~np.isnan(mine[0]) & ~np.isnan(other[0])
        values = np.concatenate([mine[0][known], other[0][known]])
        if not np.isin(values, (0.0, 1.0)).all() or not (mine[1][known] == 1.0).all():
            return None
        difference = mine[0][known] - other[0][known]
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        return better, worse, mcnemar(better, worse)
