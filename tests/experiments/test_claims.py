"""The claims' own arithmetic: partial correlations, intervals and verdicts with known answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.metrics import divergence_by_layer, language_specialization
from tests.experiments.claims.claims import tables
from tests.experiments.claims.correlation import Correlation, indicators, spearman
from tests.experiments.claims.evidence import Contrast, contrast, evidence, of_correlation, plain, together
from tests.experiments.claims.measures import mean_by_layer, over_languages, pair_matrix, specialization_by_layer, zone
from tests.support.paths import ROOT
from tests.support.stores import make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path


def test_a_rank_correlation_is_scipys() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    x, y = rng.random(25), rng.random(25)
    found = spearman(x, y)
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.03)


def test_what_a_covariate_explains_is_no_correlation() -> None:
    """Two numbers that go by the script alone: related over all languages, not within a script."""
    rng = np.random.default_rng(3)
    script = ["Latn"] * 20 + ["Cyrl"] * 20
    x = [(name == "Latn") * 5 + rng.random() for name in script]
    y = [(name == "Latn") * 5 + rng.random() for name in script]
    assert spearman(x, y).rho > 0.6
    assert spearman(x, y).p < 0.001
    beside = spearman(x, y, indicators(script))
    assert abs(beside.rho) < 0.35
    assert beside.p > 0.05
    with pytest.raises(ValueError, match="leave nothing"):
        spearman(x, y, [x])


def test_languages_alone_in_their_script_share_an_indicator() -> None:
    assert indicators(["Latn", "Latn", "Latn", "Cyrl", "Cyrl", "Grek", "Hebr"]) == [
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_verdicts_follow_the_rule() -> None:
    assert [Contrast("", 1, *ends).verdict for ends in ((0.1, 2), (-2, -0.1), (-0.1, 2))] == [
        "holds",
        "does not hold",
        "cannot be told here",
    ]
    assert [of_correlation(Correlation(9, rho, p), -1) for rho, p in ((-0.5, 0.04), (0.5, 0.04), (-0.5, 0.05))] == [
        "holds",
        "does not hold",
        "cannot be told here",
    ]
    assert together(["holds", "holds"]) == "holds"
    assert together(["holds", "cannot be told here"]) == "cannot be told here"
    assert together(["holds", "cannot be told here", "does not hold"]) == "does not hold"


def test_the_interval_of_a_contrast_is_the_basic_one() -> None:
    found = contrast("x", 1.0, np.linspace(0.5, 2.5, 1001))
    assert (found.lower, found.upper) == pytest.approx((2 - 2.45, 2 - 0.55))


def test_means_over_keys_are_the_views(tmp_path: Path) -> None:
    write_world(tmp_path, make_world(seed=1))
    with connect(tmp_path) as opened:
        run = opened.sql("select any_value(run) from runs").fetchall()[0][0]
        values, replicates = mean_by_layer(opened, "divergence", run)
        assert values == pytest.approx(divergence_by_layer(opened).sort("layer")["jsd"].to_list())
        assert replicates.shape == (300, len(values))
        values, replicates = specialization_by_layer(opened, run)
        view = language_specialization(opened).group_by("layer", maintain_order=True).first().sort("layer")
        assert values == pytest.approx(view["balanced"].to_list())
        assert (np.nanmin(replicates, axis=0) < values).all()


def test_pairs_make_a_matrix_and_a_language_drawn_twice_no_pair() -> None:
    rows = [
        {"layer": layer, "lang_a": a, "lang_b": b, "x": 10.0 * layer + n}
        for layer in (0, 1)
        for n, (a, b) in enumerate((("a", "b"), ("a", "c"), ("b", "c")))
    ]
    languages, matrix = pair_matrix(rows, "x")
    assert languages == ["a", "b", "c"]
    np.testing.assert_array_equal(matrix[1], [[np.nan, 10, 11], [10, np.nan, 12], [11, 12, np.nan]])
    mean, replicates = over_languages(matrix)
    assert mean.tolist() == [1.0, 11.0]
    known = replicates[~np.isnan(replicates[:, 0])]
    assert known[:, 0].min() >= 0
    assert known[:, 0].max() <= 2
    assert (known[:, 1] - known[:, 0]).tolist() == pytest.approx([10.0] * len(known))
    assert zone(np.asarray([[1.0, 2.0, 6.0]]), (1, 2)).tolist() == [4.0]


def test_the_docs_have_the_table_of_the_results_that_are_kept() -> None:
    results = json.loads((ROOT / "docs" / "findings" / "claims.json").read_text(encoding="utf-8"))
    assert tables(results) in (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")


def test_the_table_is_made_of_the_results() -> None:
    entry = evidence("Experts know.", "a paper", "UDHR", "holds", ["x is 1", "y is 2"], x=np.float64(1 / 3), y=[np.nan])
    assert entry["numbers"] == {"x": 0.33333, "y": [None]}
    assert plain(Correlation(3, 0.5, 0.1)) == {"n": 3, "rho": 0.5, "p": 0.1}
    assert tables({"claims": [entry]}).splitlines()[-1] == (
        "| Experts know. | a paper | UDHR | x is 1; y is 2 | **holds** |"
    )
