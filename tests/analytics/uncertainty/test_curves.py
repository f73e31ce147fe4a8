"""Curves over depth: their values are the views', their replicates those of a loop over drawn corpora."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty import bootstrap, count_curves, translation_curves
from moetrace.analytics.uncertainty.curves import Curve
from moetrace.store.errors import MoetraceError, UnknownNameError
from tests.analytics.uncertainty.world import WORLD, reference_values, repeated, text_ids
from tests.support.stores import make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

LAYERS = [1, 2, 5]
LANGUAGES = sorted(WORLD.texts)


def of_world(texts: dict[str, list], metric: str) -> np.ndarray:
    """The mean over pairs of a metric by layer, as the reference has it."""
    values = reference_values(texts, metric)
    return np.array([np.mean([values[layer, a, b] for a, b in combinations(LANGUAGES, 2)]) for layer in LAYERS])


def test_values_are_the_means_of_the_views(opened: duckdb.DuckDBPyConnection) -> None:
    found = count_curves(opened, replicates=4)
    jaccard = metrics.jaccard_by_layer(opened).sort("layer")
    divergence = metrics.divergence_by_layer(opened).sort("layer")
    assert found.isolation.values == pytest.approx(1 - jaccard["jaccard"].to_numpy(), abs=1e-12)
    assert found.jsd.values == pytest.approx(divergence["jsd"].to_numpy(), abs=1e-12)
    assert found.jsd_normalized.values == pytest.approx(divergence["jsd_normalized"].to_numpy(), abs=1e-12)
    for row in metrics.jaccard_by_pair(opened).iter_rows(named=True):
        assert found.jaccard[row["lang_a"], row["lang_b"]].values == pytest.approx(row["jaccard"], abs=1e-12)
    entropies = metrics.routing_entropy(opened)
    for lang, curve in found.entropy.items():
        expected = entropies.filter(lang=lang).sort("layer")["entropy"].to_numpy()
        assert curve.values == pytest.approx(expected, abs=1e-12)
    similar = metrics.pivot_similarity(opened)
    for lang, curve in translation_curves(opened, replicates=4).excess.items():
        assert curve.values == pytest.approx(similar.filter(lang=lang).sort("layer")["excess"].to_numpy(), abs=1e-6)


def test_replicates_are_those_of_a_loop_over_drawn_corpora(opened: duckdb.DuckDBPyConnection) -> None:
    ids, replicates = text_ids(WORLD), 12
    weights = np.random.default_rng(7).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=replicates)
    found = count_curves(opened, replicates=replicates, seed=7)
    for at, drawn in enumerate(weights):
        texts = repeated(WORLD, dict(zip(ids, drawn.tolist(), strict=True)))
        if not all(texts.values()):
            continue  # a language without a text has no shares
        assert found.jsd.replicates[at] == pytest.approx(of_world(texts, "divergence"), abs=1e-9)
        assert found.isolation.replicates[at] == pytest.approx(1 - of_world(texts, "jaccard"), abs=1e-9)


def test_one_language_varies_as_in_bootstrap(opened: duckdb.DuckDBPyConnection) -> None:
    """Other draws of the same texts: as far apart, within what 2,000 draws leave to chance."""
    mine = count_curves(opened, replicates=2000).entropy["swh_Latn"].replicates.std(axis=0)
    theirs = bootstrap(opened, "routing_entropy", replicates=2000).filter(lang="swh_Latn").sort("layer")
    assert mine == pytest.approx(theirs["error"].to_numpy(), rel=0.2)


def test_the_floor_is_the_noise_of_the_view(tmp_path: Path) -> None:
    """Two draws of one language differ as the delta method says that two samples of it do."""
    store = connect(write_world(tmp_path / "store", make_world(3, make_record(), texts=60)))
    noise = metrics.divergence_by_layer(store).sort("layer")["noise"].to_numpy()
    assert count_curves(store, replicates=1000).jsd_floor.values == pytest.approx(noise, rel=0.2)


def test_of_many_texts_some_are_read_and_deviations_are_of_all(tmp_path: Path) -> None:
    store = connect(write_world(tmp_path / "store", make_world(3, make_record(), texts=300)))
    every, some = count_curves(store, replicates=600), count_curves(store, replicates=600, most_texts=100)
    assert (some.drawn.text_ids, some.drawn.of_text_ids) == (100, every.drawn.of_text_ids)
    spread, expected = some.jsd.replicates.std(axis=0), every.jsd.replicates.std(axis=0)
    assert spread == pytest.approx(expected, rel=0.35)  # of 100 texts alone it would be 1.7 times as wide
    moved = some.jsd.around(every.jsd.values)
    assert moved.values is not some.jsd.values
    assert moved.replicates.std(axis=0) == pytest.approx(spread)
    low, high = moved.interval()
    assert np.all((low < every.jsd.values) & (every.jsd.values < high))


def test_texts_that_are_not_parallel_are_drawn_language_by_language(tmp_path: Path) -> None:
    record = make_record()
    record = replace(record, corpus={**record.corpus, "parallel": False})
    store = connect(write_world(tmp_path / "store", make_world(3, record, texts=30)))
    found = count_curves(store, replicates=300, most_texts=10)
    assert found.drawn.text_ids == 10
    alone = count_curves(store, languages=["swh_Latn"], replicates=300, most_texts=10)
    assert np.isnan(alone.isolation.values).all()
    assert not np.isnan(alone.entropy["swh_Latn"].replicates).any()
    with pytest.raises(MoetraceError, match="needs translations"):
        translation_curves(store)


def test_what_is_computed_of_curves_has_their_draws() -> None:
    rng = np.random.default_rng(0)
    a, b = (Curve(np.arange(3.0), np.arange(3.0) + rng.normal(size=(500, 3))) for _ in range(2))
    assert a.minus(a).interval()[1] == pytest.approx(np.zeros(3))
    assert a.minus(b).replicates.std(axis=0) == pytest.approx(np.full(3, 2**0.5), rel=0.15)
    assert Curve.mean_of([a, b]).values == pytest.approx(a.values)
    both = Curve.side_by_side([a.mean(), b.mean()])
    assert both.values.tolist() == [1.0, 1.0]
    assert both.minus(both.at([0])).replicates[:, 0].tolist() == [0.0] * 500
    assert a.scaled(2).interval()[0] == pytest.approx(2 * a.interval()[0])
    sets = replace(a, kind="wide")
    low, high = sets.interval()
    assert np.all(low <= a.interval()[0])
    assert np.all(replace(a, kind="percentile").interval()[1] <= high)
    apart = sets.minus(sets.at([0])).interval()
    assert apart[0] == pytest.approx(low - high[0])
    assert sets.minus(sets.at([0])).at([2]).interval()[1] == pytest.approx(high[2:] - low[0])
    tied = Curve(np.zeros(1), np.array([[0.0], [0.0], [1.0]]), "percentile")
    assert tied.interval(level=0.5) == (pytest.approx([0.0]), pytest.approx([0.5]))


def test_runs_without_what_is_drawn_are_refused(tmp_path: Path) -> None:
    record = make_record(tables=("usage",), languages=("eng_Latn", "swh_Latn"))
    write_counts(
        tmp_path / "store",
        record,
        dict.fromkeys(("eng_Latn", "swh_Latn"), np.full((3, 8), 5)),
        {"eng_Latn": 20, "swh_Latn": 20},
    )
    store = connect(tmp_path / "store")
    with pytest.raises(MoetraceError, match="roll-ups only"):
        count_curves(store)
    with pytest.raises(UnknownNameError, match="swh_Latin"):
        count_curves(store, languages=["swh_Latin"])
