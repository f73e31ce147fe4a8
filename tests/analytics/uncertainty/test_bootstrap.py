"""Intervals against loops over drawn texts, and what they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty import bootstrap
from moetrace.analytics.uncertainty.bootstrap import left_out
from moetrace.analytics.uncertainty.statistics import METRICS
from moetrace.store.errors import MoetraceError, UnknownNameError
from tests.analytics.uncertainty.world import (
    FLOAT32,
    WORLD,
    reference_values,
    repeated,
    text_ids,
    tolerance,
    values,
)
from tests.support.stores import World, make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

DRAWN = [name for name in METRICS if name != "pivot_excess"]  # whose values a loop over worlds of drawn texts has


@pytest.mark.parametrize("metric", METRICS)
def test_the_value_is_the_views(metric: str, opened: duckdb.DuckDBPyConnection) -> None:
    expected = values(getattr(metrics, METRICS[metric].view)(opened).to_dicts(), metric)
    found = values(bootstrap(opened, metric, replicates=3).to_dicts(), metric)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6 if metric in FLOAT32 else 1e-12)


@pytest.mark.parametrize("metric", DRAWN)
def test_the_interval_is_that_of_a_loop_over_drawn_corpora(metric: str, opened: duckdb.DuckDBPyConnection) -> None:
    replicates, ids = 40, text_ids(WORLD)
    rng = np.random.default_rng(5)
    found: dict[tuple[Any, ...], list[float]] = {}
    for _ in range(replicates):
        drawn = np.bincount(rng.integers(0, len(ids), len(ids)), minlength=len(ids))
        texts = repeated(WORLD, dict(zip(ids, drawn.tolist(), strict=True)))
        for key, value in reference_values(texts, metric).items():
            found.setdefault(key, []).append(value)
    keys, near = METRICS[metric].keys, tolerance(metric)
    by_interval = {
        interval: bootstrap(opened, metric, replicates=replicates, level=0.8, seed=5, interval=interval).to_dicts()
        for interval in ("percentile", "basic")
    }
    for row, basic in zip(*by_interval.values(), strict=True):
        drawn = found[row["layer"], *(row[name] for name in keys)]
        assert row["lower"] == pytest.approx(np.quantile(drawn, 0.1), abs=near)
        assert row["upper"] == pytest.approx(np.quantile(drawn, 0.9), abs=near)
        assert row["error"] == pytest.approx(np.std(drawn), abs=near)
        value = row[METRICS[metric].column]
        assert basic["lower"] == pytest.approx(2 * value - row["upper"], abs=1e-12)
        assert basic["upper"] == pytest.approx(2 * value - row["lower"], abs=1e-12)


def test_bca_is_that_of_scipy(tmp_path: Path) -> None:
    from scipy import stats

    world = make_world(7, make_record(languages=["a", "b"]), texts=24)
    by_id = {lang: {text.text_id: text for text in texts} for lang, texts in world.texts.items()}
    shared = sorted(set(by_id["a"]) & set(by_id["b"]))
    both = {lang: [by_id[lang][text_id] for text_id in shared] for lang in by_id}
    write_world(tmp_path, World(world.record, both))
    single = [
        reference_values({lang: [texts[number]] for lang, texts in both.items()}, "pivot_similarity", world.record)
        for number in range(len(shared))
    ]
    for row in bootstrap(connect(tmp_path), "pivot_similarity", replicates=60_000, interval="bca").to_dicts():
        sample = [found[row["layer"], "b"] for found in single]
        found = stats.bootstrap((sample,), np.mean, n_resamples=60_000, method="BCa", rng=1).confidence_interval
        assert row["lower"] == pytest.approx(found.low, abs=0.1 * row["error"])
        assert row["upper"] == pytest.approx(found.high, abs=0.1 * row["error"])


def test_a_draw_without_any_text_of_a_language_does_not_count(tmp_path: Path) -> None:
    world = make_world(2, make_record(languages=["a", "b"]), texts=12)
    write_world(tmp_path, World(world.record, {"a": world.texts["a"], "b": world.texts["b"][:1]}))
    opened = connect(tmp_path)
    for metric, column in (("jaccard", "jaccard"), ("divergence", "jsd")):
        rows = bootstrap(opened, metric, replicates=200, interval="percentile").to_dicts()
        # b has one text: every draw that has it at all gives b the same shares, every other nothing to compare.
        for row in rows:
            assert 0 <= row["lower"] <= row[column] <= row["upper"] <= 1
    (row, *_) = bootstrap(opened, "routing_entropy", languages=["b"], replicates=200).to_dicts()
    assert row["lower"] == pytest.approx(row["entropy"]) == row["upper"]


def test_whole_documents_are_drawn_together(tmp_path: Path) -> None:
    # Copies of a text are one document: drawing copies by themselves would find them many independent texts.
    world = make_world(6, make_record(languages=["a", "b"]), texts=20)
    copies = dict.fromkeys(text_ids(world), 8)
    write_world(tmp_path, World(world.record, repeated(world, copies)), texts_in_shard=64)
    opened = connect(tmp_path)
    by_text = bootstrap(opened, "routing_entropy", replicates=300)
    by_document = bootstrap(opened, "routing_entropy", replicates=300, document=lambda name: name.rpartition("-")[0])
    assert by_document["error"].mean() == pytest.approx(by_text["error"].mean() * 8**0.5, rel=0.2)
    write_world(tmp_path / "once", world)
    once = bootstrap(connect(tmp_path / "once"), "routing_entropy", replicates=300)
    assert by_document["error"].mean() == pytest.approx(once["error"].mean(), rel=0.2)


def test_texts_that_are_not_parallel_are_drawn_by_language(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"])
    world = make_world(3, record, texts=30, alike=[("a", "b")])  # the same texts: drawn together, they never differ
    write_world(tmp_path / "parallel", world)
    numbered = replace(record, corpus=record.corpus | {"parallel": False})
    write_world(tmp_path / "numbered", World(numbered, world.texts))
    together, apart = (bootstrap(connect(tmp_path / name), "divergence") for name in ("parallel", "numbered"))
    assert together["error"].max() == 0
    assert apart["error"].min() > 0
    with pytest.raises(MoetraceError, match="is not the same text; pivot_similarity needs translations"):
        bootstrap(connect(tmp_path / "numbered"), "pivot_similarity", pivot_lang="a")


def test_more_texts_make_narrower_intervals(tmp_path: Path) -> None:
    widths = []
    for texts in (10, 160):
        write_world(tmp_path / str(texts), make_world(4, texts=texts))
        frame = bootstrap(connect(tmp_path / str(texts)), "routing_entropy", replicates=200)
        widths.append((frame["upper"] - frame["lower"]).mean())
    assert widths[1] < widths[0] / 2


def test_the_same_seed_gives_the_same_numbers(opened: duckdb.DuckDBPyConnection) -> None:
    one, two, other = (bootstrap(opened, "divergence", replicates=20, seed=seed) for seed in (1, 1, 2))
    assert one.equals(two)
    assert not one.equals(other)


def test_languages_layers_and_arguments_restrict_what_is_compared(opened: duckdb.DuckDBPyConnection) -> None:
    frame = bootstrap(opened, "jaccard", languages=["eng_Latn", "swh_Latn"], layers=[2], replicates=5, n=3)
    assert frame.select("layer", "lang_a", "lang_b").rows() == [(2, "eng_Latn", "swh_Latn")]
    expected = metrics.jaccard(opened, n=3).to_dicts()
    assert frame["jaccard"].item() == values(expected, "jaccard")[2, "eng_Latn", "swh_Latn"]
    similarity = bootstrap(opened, "pivot_similarity", pivot_lang="deu_Latn", languages=["swh_Latn"], replicates=5)
    assert set(similarity["lang"]) == {"swh_Latn"}


def test_every_unit_is_left_out_once() -> None:
    assert left_out(3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    many = left_out(1000)
    assert many.shape == (200, 1000)
    assert ((many == 0).sum(axis=0) == 1).all()
    assert ((many == 0).sum(axis=1) == 5).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "jacard"}, "has no metric with an uncertainty 'jacard'; did you mean jaccard"),
        ({"metric": "jaccard", "run": "x"}, "has no run 'x'"),
        ({"metric": "jaccard", "languages": ["swh"]}, "has no language 'swh'; did you mean swh_Latn"),
        ({"metric": "jaccard", "layers": [9]}, "run 'run' has no MoE layer 9; it has 1 to 5"),
        ({"metric": "pivot_similarity", "pivot_lang": "eng"}, "has no language 'eng'"),
    ],
)
def test_what_is_not_there_is_one_line(
    arguments: dict[str, Any], message: str, opened: duckdb.DuckDBPyConnection
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        bootstrap(opened, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": "normal"}, "interval 'normal': pass one of basic, bca, percentile"),
        ({"level": 95.0}, "level 95: pass a number above 0 and below 1"),
        ({"replicates": 1}, "replicates 1: pass at least 2"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    arguments: dict[str, Any], message: str, opened: duckdb.DuckDBPyConnection
) -> None:
    with pytest.raises(MoetraceError, match=message):
        bootstrap(opened, "jaccard", **arguments)


def test_a_run_that_cannot_be_resampled_says_why(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], tables=("usage",))
    counts = {lang: np.full((3, 8), 25) for lang in ("a", "b")}
    write_counts(tmp_path / "counts", record, counts, {"a": 100, "b": 100})
    with pytest.raises(MoetraceError, match="has roll-ups only: without its texts nothing can be resampled"):
        bootstrap(connect(tmp_path / "counts"), "jaccard")
    record = make_record(tables=("sequences", "tokens", "usage"))
    write_world(tmp_path / "no-routes", make_world(1, record))
    with pytest.raises(MoetraceError, match="was traced without routes"):
        bootstrap(connect(tmp_path / "no-routes"), "jaccard")
    with pytest.raises(MoetraceError, match="was traced without profiles"):
        bootstrap(connect(tmp_path / "no-routes"), "pivot_similarity")
    record = make_record()
    record.corpus["pivot"] = None
    write_world(tmp_path / "no-pivot", make_world(1, record))
    with pytest.raises(MoetraceError, match="names no pivot language; name one: pivot_lang"):
        bootstrap(connect(tmp_path / "no-pivot"), "pivot_similarity")
