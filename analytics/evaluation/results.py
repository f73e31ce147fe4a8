"""The results of an evaluation: scores, comparisons and what was compared, as JSON values and as rows of a table."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from moetrace.analytics.evaluation.paired import COLUMNS, EVERY, Comparison, compared, scores
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEADLINES = {"choice": "accuracy", "number": "exact_match", "perplexity": "bits_per_byte"}
LOWER_IS_BETTER = ("answer_bits_per_byte", "bits_per_byte", "nats_per_token")


@dataclass(frozen=True)
class Results:
    """An evaluation with its statistics.

    - about: model, task and settings
    - arms: name, kind (baseline, intervention, control, experts, model), and of a control `of`, `control` and `seed`
    - metric: the one that tables show; cut: prompts that lost their beginning
    - scores: see `paired.scores`
    - comparisons: see `paired.compared`: each intervention, trained experts and other model against the baseline, and
      each intervention against each kind of its controls
    """

    about: Mapping[str, Any]
    arms: Sequence[Mapping[str, Any]]
    metric: str
    cut: int
    scores: pl.DataFrame
    comparisons: pl.DataFrame

    def record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "format": "moetrace-evaluation",
            "version": 1,
            **self.about,
            "metric": self.metric,
            "lower_is_better": list(LOWER_IS_BETTER),
            "cut": self.cut,
            "arms": [dict(arm) for arm in self.arms],
            "scores": self.scores.fill_nan(None).to_dicts(),
            "comparisons": self.comparisons.fill_nan(None).to_dicts(),
        }

    def language_scores(self, arm: str) -> pl.DataFrame:
        """Return the score table of an arm, as `score_correlation` reads it: lang, score; the higher the better."""
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        mine = (pl.col("arm") == arm) & (pl.col("metric") == self.metric) & (pl.col("lang") != EVERY)
        return self.scores.filter(mine).select("lang", (sign * pl.col("value")).alias("score"))

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return the table's columns and its rows: each arm but the controls in each language, and its differences."""
        shown = [arm["name"] for arm in self.arms if arm["kind"] != "control"]
        found = self.comparisons.filter(pl.col("metric") == self.metric)
        against = found["against"].unique(maintain_order=True).to_list()
        differences = {(row["arm"], row["against"], row["lang"]): row for row in found.iter_rows(named=True)}
        columns = ["arm", "lang", "items", self.metric]
        for name in against:
            columns += [f"- {name}", "95% interval"]
        columns += ["p"] if found["p"].is_not_null().any() else []
        rows: list[list[object]] = []
        for score in self.scores.filter(pl.col("metric") == self.metric).iter_rows(named=True):
            if score["arm"] not in shown:
                continue
            row = [score["arm"], score["lang"], score["items"], f"{score['value']:.4f}"]
            for name in against:
                one = differences.get((score["arm"], name, score["lang"]))
                row += ["", ""] if one is None else [f"{one['difference']:+.4f}", _interval(one)]
            if "p" in columns:
                one = differences.get((score["arm"], against[0], score["lang"]))
                row.append("" if one is None or one["p"] is None else f"{one['p']:.3g}")
            rows.append(row)
        return columns, rows


def results_of(
    outcomes: Sequence[Mapping[str, Any]],
    arms: Sequence[Mapping[str, Any]],
    kind: str,
    about: Mapping[str, Any],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Results:
    """Return the statistics of outcomes: arm, lang, id, values (metric -> numerator, denominator), cut.

    Raises MoetraceError where nothing was asked.
    """
    rows = [
        (one["arm"], one["lang"], one["id"], metric, *sums)
        for one in outcomes
        for metric, sums in one["values"].items()
    ]
    if not rows:
        raise MoetraceError("no item was asked; the task has none for these languages")
    frame = pl.DataFrame(rows, schema=list(COLUMNS), orient="row", infer_schema_length=None)
    found = compared(frame, comparisons(arms), replicates=replicates, seed=seed)
    return Results(
        about=about,
        arms=arms,
        metric=HEADLINES[kind],
        cut=sum(one["cut"] > 0 for one in outcomes if one["arm"] == arms[0]["name"]),
        scores=scores(frame, replicates=replicates, seed=seed),
        comparisons=found,
    )


def comparisons(arms: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """Return what is compared with what: with the baseline, and with each kind of control, its draws taken together."""
    baseline = next(arm["name"] for arm in arms if arm["kind"] == "baseline")
    controls: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for arm in arms:
        if arm["kind"] == "control":
            controls[arm["of"]][arm["control"]].append(arm["name"])
    found = []
    for arm in arms:
        if arm["kind"] in {"baseline", "control"}:
            continue
        name = arm["name"]
        found.append(Comparison(name, "baseline", (baseline,)))
        found += [Comparison(name, control, tuple(draws)) for control, draws in controls[name].items()]
    return found


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['lower']:+.4f} to {row['upper']:+.4f}"
