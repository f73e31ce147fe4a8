"""Intervals and the null model against loops over drawn texts, and what they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty import bootstrap, null_model
from moetrace.analytics.uncertainty.statistics import METRICS
from moetrace.store.errors import MoetraceError, UnknownNameError
from tests.reference import metrics as reference
from tests.support.stores import World, make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

WORLD = make_world(1, make_record(languages=("eng_Latn", "deu_Latn", "swh_Latn")), texts=9)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    path = tmp_path_factory.mktemp("store")
    write_world(path, WORLD)
    return connect(path)


def values(rows: list[dict[str, Any]], metric: str) -> dict[tuple[Any, ...], float]:
    keys, column = METRICS[metric].keys, METRICS[metric].column
    return {(row["layer"], *(row[key] for key in keys)): row[column] for row in rows}


def drawn_world(ids: list[str], drawn: np.ndarray) -> World:
    """Return the world in which each text id stands as often as it was drawn."""
    texts = {}
    for lang, found in WORLD.texts.items():
        by_id = {text.text_id: text for text in found}
        texts[lang] = [
            replace(by_id[text_id], text_id=f"{text_id}-{copy}")
            for text_id, times in zip(ids, drawn, strict=True)
            for copy in range(times)
            if text_id in by_id
        ]
    return World(WORLD.record, texts)


@pytest.mark.parametrize("metric", METRICS)
def test_the_value_is_the_views(metric: str, opened: duckdb.DuckDBPyConnection) -> None:
    expected = values(getattr(metrics, metric)(opened).to_dicts(), metric)
    found = values(bootstrap(opened, metric, replicates=3).to_dicts(), metric)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6 if metric == "pivot_similarity" else 1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_is_that_of_a_loop_over_drawn_corpora(metric: str, opened: duckdb.DuckDBPyConnection) -> None:
    replicates, ids = 40, sorted({text.text_id for texts in WORLD.texts.values() for text in texts})
    rng = np.random.default_rng(5)
    found: dict[tuple[Any, ...], list[float]] = {}
    for _ in range(replicates):
        drawn = np.bincount(rng.integers(0, len(ids), len(ids)), minlength=len(ids))
        data = reference.routing(drawn_world(ids, drawn))
        for key, value in values(reference.METRICS[metric](data), metric).items():
            found.setdefault(key, []).append(value)
    rows = bootstrap(opened, metric, replicates=replicates, level=0.8, seed=5).to_dicts()
    keys = METRICS[metric].keys
    tolerance = 1e-6 if metric == "pivot_similarity" else 1e-9
    for row in rows:
        key = (row["layer"], *(row[name] for name in keys))
        assert row["lower"] == pytest.approx(np.quantile(found[key], 0.1), abs=tolerance)
        assert row["upper"] == pytest.approx(np.quantile(found[key], 0.9), abs=tolerance)
        assert row["error"] == pytest.approx(np.std(found[key]), abs=tolerance)


@pytest.mark.parametrize("metric", ["jaccard", "divergence", "specificity", "routing_entropy"])
def test_the_null_is_that_of_a_loop_over_relabelled_texts(metric: str, opened: duckdb.DuckDBPyConnection) -> None:
    permutations, names = 30, sorted(WORLD.texts)
    by_id = {lang: {text.text_id: text for text in texts} for lang, texts in WORLD.texts.items()}
    ids = sorted(set.intersection(*(set(texts) for texts in by_id.values())))
    rng = np.random.default_rng(2)
    identity = np.broadcast_to(np.arange(len(names), dtype=np.uint8), (permutations, len(ids), len(names)))
    found: dict[tuple[Any, ...], list[float]] = {}
    for order in rng.permuted(identity, axis=2):
        texts = {
            lang: [by_id[names[order[i, number]]][text_id] for i, text_id in enumerate(ids)]
            for number, lang in enumerate(names)
        }
        data = reference.routing(World(WORLD.record, texts))
        for key, value in values(reference.METRICS[metric](data), metric).items():
            found.setdefault(key, []).append(value)
    keys = METRICS[metric].keys
    for row in null_model(opened, metric, permutations=permutations, seed=2).to_dicts():
        null = np.array(found[row["layer"], *(row[name] for name in keys)])
        assert row["null_mean"] == pytest.approx(null.mean(), abs=1e-9)
        assert row["null_lower"] == pytest.approx(np.quantile(null, 0.025), abs=1e-9)
        assert row["null_upper"] == pytest.approx(np.quantile(null, 0.975), abs=1e-9)


def test_the_null_of_similarity_permutes_whose_translation_is_compared(opened: duckdb.DuckDBPyConnection) -> None:
    rows = null_model(opened, "pivot_similarity", permutations=50).to_dicts()
    by_layer: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_layer.setdefault(row["layer"], []).append(row)
    for found in by_layer.values():
        # Two languages share their texts' similarities out between them: the means of both nulls are near their mean.
        mean = np.mean([row["similarity"] for row in found])
        assert [row["null_mean"] for row in found] == pytest.approx([mean] * len(found), abs=0.05)
        assert all(row["null_lower"] <= row["null_mean"] <= row["null_upper"] for row in found)
    (alone, *_) = null_model(opened, "pivot_similarity", languages=["swh_Latn"], permutations=5).to_dicts()
    assert alone["p_value"] == 1


def test_languages_that_are_the_same_do_not_differ_and_others_do(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b", "c"])
    write_world(tmp_path, make_world(3, record, texts=40, alike=[("a", "b")]))
    rows = null_model(connect(tmp_path), "divergence", permutations=200).to_dicts()
    found = {(row["lang_a"], row["lang_b"]): row for row in rows if row["layer"] == 1}
    assert found["a", "b"]["jsd"] == 0
    assert found["a", "c"]["p_value"] == pytest.approx(1 / 201)
    assert found["a", "c"]["jsd"] > found["a", "c"]["null_upper"]


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
    for of in (bootstrap, null_model):
        with pytest.raises(UnknownNameError, match=message):
            of(opened, **arguments)


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
