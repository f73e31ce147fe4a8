"""Scores of your own for each language: their correlation with routing, against SciPy, and what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import polars as pl
import pytest
from scipy import stats

from moetrace.analytics import metrics
from moetrace.analytics.database.documentation import view
from moetrace.store.errors import MoetraceError, UnknownNameError
from tests.reference import metrics as reference
from tests.reference.agreement import close, keyed
from tests.reference.metrics.scores import correlations
from tests.support.stores import make_record, make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.mark.parametrize(
    "arguments", [{}, {"pivot_lang": "l5"}, {"layers": [2, 5]}, {"permutations": 99, "seed": 5}], ids=str
)
@pytest.mark.parametrize("noise", [0, 1e-3, 0.03, 10])
def test_score_correlation_agrees_with_the_reference(noise: float, arguments: dict[str, Any], tmp_path: Path) -> None:
    world = make_world(31, make_record(languages=[f"l{number}" for number in range(9)]), texts=4)
    opened = open_worlds(tmp_path, [world])
    rng = np.random.default_rng(0)
    similar = metrics.pivot_similarity(opened).filter(layer=2)
    scores = {"l0": 1.0} | {
        lang: float(similarity + noise * rng.normal())
        for lang, similarity in similar.select("lang", "similarity").rows()
    }
    scores["l3"] = scores["l4"]
    found = metrics.score_correlation(opened, table_of(scores), **arguments)
    expected = reference.score_correlation(reference.routing(world), scores, **arguments)
    assert close(keyed([{"run": "run", **row} for row in expected]), keyed(found.to_dicts()), 1e-9)


@pytest.mark.parametrize("languages", [3, 4, 5, 31, 200])
@pytest.mark.parametrize("noise", [0, 0.05, 1, 30])
def test_correlations_are_those_of_scipy(languages: int, noise: float) -> None:
    rng = np.random.default_rng(languages)
    similarity = rng.random(languages).round(6 if languages < 100 else 2)
    score = -similarity + noise * rng.normal(size=languages).round(1)
    (row,) = correlations_of({1: similarity}, score)
    assert row["n"] == languages
    assert row["pearson"] == pytest.approx(stats.pearsonr(similarity, score).statistic, abs=1e-12)
    assert row["spearman"] == pytest.approx(stats.spearmanr(similarity, score).statistic, abs=1e-12)


@pytest.mark.parametrize(("permutations", "seed"), [(999, 0), (200, 7), (1, 0), (0, 0)])
def test_p_values_are_shares_of_the_same_permutations_everywhere(permutations: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=11).round(1)
    similarity = {layer: rng.random(11).round(2) + 0.02 * layer * score for layer in range(5)}
    similarity[5] = np.full(11, 0.5)
    found = correlations_of(similarity, score, permutations=permutations, seed=seed)
    expected = correlations([f"l{number:03}" for number in range(11)], similarity, score, permutations, seed)
    assert close(keyed([{"run": "run", **row} for row in expected]), keyed(found), 1e-9)


def test_p_agrees_with_the_normal_theory_where_numbers_are_normal() -> None:
    rng = np.random.default_rng(3)
    for strength in (0.0, 0.3, 0.6):
        similarity = rng.normal(size=40)
        score = strength * similarity + rng.normal(size=40)
        (row,) = correlations_of({1: similarity}, score, permutations=1999)
        assert row["pearson_p"] == pytest.approx(stats.pearsonr(similarity, score).pvalue, abs=0.04)
        assert row["pearson_p_layers"] == row["pearson_p"]


def test_one_random_table_in_twenty_has_a_layer_with_a_p_over_layers_of_a_twentieth() -> None:
    """Tables are runs of one call: similarities of 8 layers, each like the one before, that know nothing of scores."""
    tables, layers, languages = 400, 8, 12
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(tables, layers, languages))
    for layer in range(1, layers):
        noise[:, layer] = 0.7 * noise[:, layer - 1] + 0.7 * noise[:, layer]
    given = {(f"t{table}", layer): noise[table, layer] for table in range(tables) for layer in range(layers)}
    found = pl.DataFrame(correlations_of(given, rng.normal(size=languages), permutations=199))
    by_table = found.group_by("run").agg(pl.col("pearson_p", "pearson_p_layers", "spearman_p_layers").min())
    assert len(by_table) == tables
    shares = {column: (by_table[column] <= 0.05).mean() for column in by_table.columns[1:]}
    spread = 3 * math.sqrt(0.05 * 0.95 / tables)
    assert shares["pearson_p_layers"] == pytest.approx(0.05, abs=spread)
    assert shares["spearman_p_layers"] == pytest.approx(0.05, abs=spread)
    assert shares["pearson_p"] > 0.15
    single = (found["pearson_p"] <= 0.05).mean()
    assert single == pytest.approx(0.05, abs=0.015)


def test_scores_that_do_not_vary_have_no_correlation() -> None:
    unknown = [kind + of for kind in ("pearson", "spearman") for of in ("", "_p", "_p_layers")]
    (row,) = correlations_of({1: np.array([0.1, 0.2, 0.3])}, np.ones(3))
    assert row == {"run": "run", "layer": 1, "n": 3} | dict.fromkeys(unknown)
    (row,) = correlations_of({1: np.array([0.1, 0.2])}, np.arange(2))
    assert row == {"run": "run", "layer": 1, "n": 2} | dict.fromkeys(unknown)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({"lang": ["deu_Latn", "swa_Latn"], "score": [1, 2]}, UnknownNameError, "no language 'swa_Latn'; did you mean"),
        (
            {"lang": ["deu_Latn", "swh_Latn"], "score": [1, 2]},
            MoetraceError,
            "needs 3 languages .* there are 2",
        ),
        ({"lang": ["eng_Latn", "deu_Latn", "swh_Latn"], "score": [1, 2, None]}, MoetraceError, "there are 1;"),
        ({"lang": ["deu_Latn"] * 2, "score": [1, 2]}, MoetraceError, "language 'deu_Latn' more than once"),
        ({"lang": ["deu_Latn"], "score": [math.nan]}, MoetraceError, "no finite number"),
        ({"lang": ["deu_Latn"], "score": ["high"]}, MoetraceError, "no finite number"),
        ({"lang": ["deu_Latn"], "value": [1]}, MoetraceError, "scores have no column 'score'"),
    ],
)
def test_scores_that_cannot_be_correlated_are_an_error(
    scores: dict[str, list[Any]], error: type[Exception], message: str, three_languages: duckdb.DuckDBPyConnection
) -> None:
    with pytest.raises(error, match=message):
        metrics.score_correlation(three_languages, pl.DataFrame(scores))


def test_a_table_of_ones_own_can_be_correlated_in_sql(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(32, make_record(languages=["a", "b", "c", "d"]))])
    assert opened.sql("from score_correlation").fetchall() == []
    opened.execute("insert into scores values ('b', 3), ('c', 1), ('d', 2)")
    opened.execute("create table mine as from scores")
    plain = opened.sql("from score_correlation order by all").fetchall()
    named = opened.sql("from score_correlation(scores := 'mine') order by all").fetchall()
    assert [row[2] for row in plain] == [3, 3, 3]
    for row, other in zip(plain, named, strict=True):
        assert row == pytest.approx(other)


def table_of(scores: dict[str, float]) -> pl.DataFrame:
    return pl.DataFrame({"lang": list(scores), "score": list(scores.values())})


def correlations_of(
    similarity: Mapping[Any, np.ndarray], score: np.ndarray, permutations: int = 999, seed: int = 0
) -> list[dict[str, Any]]:
    """Return score_correlation's rows for similarities that are given by layer, or by run and layer."""
    opened = duckdb.connect()
    names = [f"l{number:03}" for number in range(len(score))]
    given = pl.DataFrame(
        [
            (*(key if isinstance(key, tuple) else ("run", key)), lang, float(value), float(of_lang))
            for key, values in similarity.items()
            for lang, value, of_lang in zip(names, values, score, strict=True)
        ],
        schema=["run", "layer", "lang", "similarity", "score"],
        orient="row",
    )
    opened.register("given", given)
    opened.execute("create table mine as select distinct lang, score from given")
    opened.execute(
        "create macro pivot_similarity(pivot_lang := null, layers := null, derangements := 3) as table "
        "select run, layer, lang, similarity from given"
    )
    opened.execute(view("score_correlation").sql)
    call = "from score_correlation(scores := 'mine', permutations := $permutations, seed := $seed) order by all"
    return opened.sql(call, params={"permutations": permutations, "seed": seed}).pl().to_dicts()
