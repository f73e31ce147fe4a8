"""Scores and paired differences against loops over items, and McNemar's test against scipy's binomial."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from moetrace.analytics.evaluation.paired import COLUMNS, EVERY, Comparison, compared, mcnemar, scores
from moetrace.analytics.evaluation.results import comparisons, results_of
from moetrace.store.errors import MoetraceError

LANGUAGES, ARMS, ITEMS = ("deu_Latn", "swh_Latn"), ("none", "up", "up.random-0", "up.random-1"), 40
RNG = np.random.default_rng(2)
RIGHT = {
    (arm, lang): (RNG.random(ITEMS) < 0.3 + 0.15 * at).astype(float)
    for at, arm in enumerate(ARMS)
    for lang in LANGUAGES
}
BITS = {(arm, lang): RNG.gamma(3, 1, ITEMS) for arm in ARMS for lang in LANGUAGES}
BYTES = RNG.integers(10, 90, ITEMS).astype(float)


def outcomes() -> list[dict[str, Any]]:
    return [
        {
            "arm": arm,
            "lang": lang,
            "id": f"{number:03}",
            "values": {
                "accuracy": (RIGHT[arm, lang][number], 1.0),
                "bits_per_byte": (BITS[arm, lang][number], BYTES[number]),
            },
            "cut": 3 if number == 5 else 0,
        }
        for arm in ARMS
        for lang in LANGUAGES
        for number in range(ITEMS)
    ]


def frame(rows: list[dict[str, Any]] | None = None) -> pl.DataFrame:
    flat = [
        (row["arm"], row["lang"], row["id"], metric, *sums)
        for row in rows or outcomes()
        for metric, sums in row["values"].items()
    ]
    return pl.DataFrame(flat, schema=list(COLUMNS), orient="row")


def draws(replicates: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, ITEMS, ITEMS) for _ in range(replicates)]


def ratio(metric: str, arms: tuple[str, ...], lang: str, drawn: Any = slice(None)) -> float:
    tables = {"accuracy": (RIGHT, np.ones(ITEMS)), "bits_per_byte": (BITS, BYTES)}
    numerators, denominator = tables[metric]
    numerator = np.mean([numerators[arm, lang] for arm in arms], axis=0)
    return float(numerator[drawn].sum() / denominator[drawn].sum())


@pytest.mark.parametrize("metric", ["accuracy", "bits_per_byte"])
def test_differences_are_those_of_a_loop_over_drawn_items(metric: str) -> None:
    found = compared(
        frame(),
        [Comparison("up", "baseline", ("none",)), Comparison("up", "random", ("up.random-0", "up.random-1"))],
        replicates=50,
        level=0.8,
        seed=4,
    ).filter(pl.col("metric") == metric)
    assert found.height == 6
    for row in found.iter_rows(named=True):
        others = ("none",) if row["against"] == "baseline" else ("up.random-0", "up.random-1")
        langs = LANGUAGES if row["lang"] == EVERY else (row["lang"],)

        def mean(arms: tuple[str, ...], drawn: Any = slice(None), langs: tuple[str, ...] = langs) -> float:
            return float(np.mean([ratio(metric, arms, lang, drawn) for lang in langs]))

        assert (row["value"], row["other"]) == (pytest.approx(mean(("up",))), pytest.approx(mean(others)))
        assert row["difference"] == pytest.approx(row["value"] - row["other"])
        replicated = [mean(("up",), drawn) - mean(others, drawn) for drawn in draws(50, 4)]
        low, high = np.quantile(replicated, [0.1, 0.9])
        assert row["lower"] == pytest.approx(2 * row["difference"] - high)
        assert row["upper"] == pytest.approx(2 * row["difference"] - low)
        assert row["items"] == ITEMS * len(langs)


def test_items_that_changed_are_counted_where_that_means_something() -> None:
    found = compared(
        frame(), [Comparison("up", "baseline", ("none",)), Comparison("up", "random", ARMS[2:])], replicates=2
    )
    for row in found.iter_rows(named=True):
        if row["metric"] != "accuracy" or row["against"] != "baseline" or row["lang"] == EVERY:
            assert (row["better"], row["worse"], row["p"]) == (None, None, None)
            continue
        mine, other = RIGHT["up", row["lang"]], RIGHT["none", row["lang"]]
        assert row["better"] == ((mine == 1) & (other == 0)).sum()
        assert row["worse"] == ((mine == 0) & (other == 1)).sum()
        assert row["p"] == mcnemar(row["better"], row["worse"])


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (0, 60), (700, 900), (4000, 4100)]
)
def test_mcnemar_is_the_binomial_test(better: int, worse: int) -> None:
    from scipy import stats

    expected = stats.binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected)


def test_only_items_that_both_have_are_compared() -> None:
    rows = [row for row in outcomes() if not (row["arm"] == "none" and row["lang"] == "deu_Latn" and row["id"] < "010")]
    (row,) = (
        compared(frame(rows), [Comparison("up", "baseline", ("none",))], replicates=2)
        .filter((pl.col("metric") == "accuracy") & (pl.col("lang") == "deu_Latn"))
        .to_dicts()
    )
    assert row["items"] == ITEMS - 10
    assert row["value"] == pytest.approx(RIGHT["up", "deu_Latn"][10:].mean())


def test_scores_have_intervals() -> None:
    found = scores(frame(), replicates=200)
    row = found.filter(
        (pl.col("arm") == "up") & (pl.col("lang") == "swh_Latn") & (pl.col("metric") == "accuracy")
    ).to_dicts()[0]
    assert row["lower"] < row["value"] < row["upper"]
    assert found["items"].unique().sort().to_list() == [ITEMS, 2 * ITEMS]


def test_what_is_compared_with_what() -> None:
    arms = [
        {"name": "none", "kind": "baseline"},
        {"name": "up", "kind": "intervention"},
        {"name": "up.random-0", "kind": "control", "of": "up", "control": "random", "seed": 0},
        {"name": "up.random-1", "kind": "control", "of": "up", "control": "random", "seed": 1},
        {"name": "tuned", "kind": "experts"},
    ]
    assert comparisons(arms) == [
        Comparison("up", "baseline", ("none",)),
        Comparison("up", "random", ("up.random-0", "up.random-1")),
        Comparison("tuned", "baseline", ("none",)),
    ]
    results = results_of(outcomes(), arms[:4], "choice", {"model": {}}, replicates=20)
    assert results.cut == 2
    columns, rows = results.rows()
    assert columns == [
        "arm",
        "lang",
        "items",
        "accuracy",
        "- baseline",
        "95% interval",
        "- random",
        "95% interval",
        "p",
    ]
    assert [row[:2] for row in rows] == [[arm, lang] for arm in ("none", "up") for lang in (*LANGUAGES, EVERY)]
    assert rows[0][4:] == ["", "", "", "", ""]
    assert results.language_scores("none")["score"].to_list() == pytest.approx(
        [RIGHT["none", lang].mean() for lang in LANGUAGES]
    )
    bits = results_of(outcomes(), arms[:4], "perplexity", {}, replicates=20).language_scores("up")
    assert bits["score"].to_list() == pytest.approx([-ratio("bits_per_byte", ("up",), lang) for lang in LANGUAGES])


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(MoetraceError, match="there are no outcomes of down; there are none, up"):
        compared(frame(), [Comparison("down", "baseline", ("none",))])
    with pytest.raises(MoetraceError, match="replicates 1: pass at least 2"):
        scores(frame(), replicates=1)
    with pytest.raises(MoetraceError, match="no item was asked"):
        results_of([], [], "choice", {})
