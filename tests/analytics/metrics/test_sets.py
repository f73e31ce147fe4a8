"""Sets of the most used experts."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.store.errors import MoetraceError
from tests.support.stores import make_record, make_world, write_counts
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


def test_a_set_of_no_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoetraceError, match="n = 0: a set of experts has at least 1 member"):
        metrics.jaccard(open_worlds(tmp_path, [make_world(13)]), n=0)


@pytest.mark.parametrize("pool", [1, 2, 7, 64, 512])
def test_the_overlap_of_random_sets_is_exact(pool: int, three_languages: duckdb.DuckDBPyConnection) -> None:
    sizes = range(1, pool + 1) if pool < 100 else (1, 8, 255, 256, 400, 512)
    for size in sizes:
        ways = (comb(size, s) * comb(pool - size, size - s) * Fraction(s, 2 * size - s) for s in range(1, size + 1))
        exact = sum(ways) / comb(pool, size)
        ((found,),) = three_languages.execute("select expected_jaccard(?, ?)", [size, pool]).fetchall()
        assert found == pytest.approx(float(exact), rel=1e-9)


def test_the_overlap_of_random_sets_is_the_mean_over_all_sets(three_languages: duckdb.DuckDBPyConnection) -> None:
    sets = [set(members) for members in combinations(range(6), 3)]
    mean = np.mean([len(a & b) / len(a | b) for a in sets for b in sets])
    assert three_languages.sql("select expected_jaccard(3, 6)").fetchall() == [(pytest.approx(mean),)]


def test_languages_that_use_experts_at_random_overlap_by_chance(tmp_path: Path) -> None:
    """Ranks of experts are drawn for each language and layer: over many of both, the curve is that of chance."""
    rng = np.random.default_rng(3)
    languages = [f"l{number}" for number in range(12)]
    record = make_record(languages=languages, moe_layers=range(40), num_experts=20, top_k=4, tables=["usage"])
    counts = {lang: 4 * rng.permuted(np.tile(np.arange(20), (40, 1)), axis=1) for lang in languages}
    tokens = dict.fromkeys(languages, sum(range(20)))
    curve = metrics.jaccard_curve(connect(write_counts(tmp_path, record, counts, tokens)))
    assert set(curve["pairs"]) == {66}
    means = curve.group_by("n").agg(pl.col("corrected").mean()).sort("n").drop_nulls()
    assert means["n"].to_list() == list(range(1, 20))
    assert means["corrected"].abs().max() < 0.02
    assert curve.filter(n=20).select("jaccard", "expected", "corrected").unique().rows() == [(1.0, 1.0, None)]


def test_the_curve_has_the_mean_of_each_size(three_languages: duckdb.DuckDBPyConnection) -> None:
    curve = metrics.jaccard_curve(three_languages)
    for n in range(1, 9):
        by_layer = metrics.jaccard_by_layer(three_languages, n=n).select("layer", "n", "pairs", "jaccard")
        assert curve.filter(n=n).select("layer", "n", "pairs", "jaccard").rows() == [
            pytest.approx(row) for row in by_layer.rows()
        ]
