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
from tests.support.stores import make_record, make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("arguments", [{}, {"pivot_lang": "l5"}, {"layers": [2, 5]}], ids=str)
@pytest.mark.parametrize("noise", [0, 1e-3, 0.03, 10])
def test_score_correlation_agrees_with_scipy(noise: float, arguments: dict[str, Any], tmp_path: Path) -> None:
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
    assert close(keyed([{"run": "run", **row} for row in expected]), keyed(found.to_dicts()), 1e-5)


@pytest.mark.parametrize("languages", [4, 5, 6, 31, 200])
@pytest.mark.parametrize("noise", [0, 0.05, 1, 30])
def test_p_values_are_those_of_scipy(languages: int, noise: float) -> None:
    rng = np.random.default_rng(languages)
    similarity = rng.random(languages).round(6 if languages < 100 else 2)
    score = -similarity + noise * rng.normal(size=languages).round(1)
    row = correlation_of(similarity, score)
    assert row["n"] == languages
    for name, (r, p) in {
        "pearson": stats.pearsonr(similarity, score),
        "spearman": stats.spearmanr(similarity, score),
    }.items():
        assert row[name] == pytest.approx(r, abs=1e-12)
        # Near |r| = 1 the last digit of r decides p.
        assert row[f"{name}_p"] == pytest.approx(p, rel=1e-9, abs=1e-30 if abs(r) < 1 - 1e-6 else 1e-13)


def test_scores_that_do_not_vary_have_no_correlation() -> None:
    row = correlation_of(np.array([0.1, 0.2, 0.3]), np.ones(3))
    assert row == {"run": "run", "layer": 1, "n": 3} | dict.fromkeys(["pearson", "pearson_p", "spearman", "spearman_p"])


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


def correlation_of(similarity: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Return score_correlation's row for similarities that are given, in place of those of a store."""
    opened = duckdb.connect()
    names = [f"l{number}" for number in range(len(score))]
    opened.execute(
        "create table given as select unnest($1) as lang, unnest($2) as similarity, unnest($3) as score",
        [names, similarity.tolist(), score.tolist()],
    )
    opened.execute(
        "create macro pivot_similarity(pivot_lang := null, layers := null) as table "
        "select 'run' as run, 1 as layer, lang, similarity from given"
    )
    opened.execute(view("score_correlation").sql)
    return opened.sql("from score_correlation(scores := 'given')").pl().row(0, named=True)
