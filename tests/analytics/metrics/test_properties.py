"""What the definitions of the metrics promise, whichever store they are asked of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.query import missing_inputs
from moetrace.store.errors import MoetraceError
from tests.support.stores import World, make_record, make_world, write_counts
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


def test_every_value_lies_in_its_range(tmp_path: Path) -> None:
    world = make_world(9, make_record(num_experts=6, top_k=1), texts=2, unused_experts=3)
    opened = open_worlds(tmp_path, [world])
    ranges = {
        "activation": {"share": 1, "frequency": 1},
        "jaccard": {"jaccard": 1, "isolation": 1, "expected": 1},
        "jaccard_curve": {"jaccard": 1, "expected": 1},
        "routing_entropy": {"entropy": math.log(6), "entropy_normalized": 1, "probability_entropy_normalized": 1},
        "divergence": {"jsd": math.log(2), "jsd_normalized": 1, "probability_jsd_normalized": 1},
        "pivot_similarity": {"divergence": 1, "similarity": 1, "mispaired": 1},
        "specificity": {"specificity": len(world.texts)},
        "overlap": {"overlap": 1},
        "activation_gap": {"gap": 1},
        "language_specialization": {"specialization": 1, "balanced": 1},
        "exclusive_experts": {"share": 1, "language_share": 1},
        "vocabulary_overlap": {"type_jaccard": 1, "token_overlap": 1},
        "divergence_vocabulary_controlled": {"jsd_controlled": math.log(2), "token_share": 1},
        "divergence_vs_vocabulary": {"p_type": 1, "p_token": 1},
        "routing_consistency": {"consistency": 1},
    }
    for name, columns in ranges.items():
        frame = getattr(metrics, name)(opened)
        for column, highest in columns.items():
            assert frame[column].min() >= 0, (name, column)
            assert frame[column].max() <= highest + 1e-12, (name, column)


def test_languages_with_the_same_texts_do_not_diverge(tmp_path: Path) -> None:
    world = make_world(10, alike=[("eng_Latn", "deu_Latn")])
    opened = open_worlds(tmp_path, [world])
    same = (frame_of(opened, name, lang_a="deu_Latn", lang_b="eng_Latn") for name in ("jaccard", "divergence"))
    overlaps, divergences = same
    assert set(overlaps["jaccard"]) == {1.0}
    assert divergences["jsd"].to_list() == pytest.approx([0.0] * len(divergences), abs=1e-15)
    assert divergences["probability_jsd_normalized"].to_list() == pytest.approx([0.0] * len(divergences), abs=1e-14)
    assert set(frame_of(opened, "pivot_similarity", lang="deu_Latn")["similarity"]) == {1.0}
    vocabulary = frame_of(opened, "vocabulary_overlap", lang_a="deu_Latn", lang_b="eng_Latn")
    assert vocabulary.row(0)[-2:] == pytest.approx((1, 1))
    same = ["deu_Latn", "eng_Latn"]
    specialization = metrics.language_specialization(opened, languages=same)["specialization"]
    assert specialization.to_list() == pytest.approx([0.0] * len(specialization), abs=1e-14)
    balanced = metrics.language_specialization(opened, languages=same)["balanced"]
    assert balanced.to_list() == pytest.approx([0.0] * len(balanced), abs=1e-14)
    gaps = metrics.activation_gap(opened, languages=same)
    assert set(gaps.select("lang", "gap").rows()) == {(None, 0.0)}
    assert set(metrics.zones_auto(opened, languages=same)["zone"]) == {"shallow", "middle", "deep"}


def test_languages_that_share_no_expert_are_told_by_every_expert(tmp_path: Path) -> None:
    counts = {"a": np.array([[10, 0, 0]]), "b": np.array([[0, 15, 15]]), "c": np.array([[0, 0, 10]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=3, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, {"a": 10, "b": 30, "c": 10}))
    apart = metrics.language_specialization(opened, languages=["a", "b"])
    assert apart.select("specialization", "balanced").row(0) == pytest.approx((1, 1))
    gaps = metrics.activation_gap(opened).select("expert", "lang", "gap").rows()
    assert gaps == [(0, "a", 1.0), (1, "b", 0.5), (2, "c", 0.5)]
    exclusive = metrics.exclusive_experts(opened).select("lang", "expert", "share", "language_share").rows()
    assert exclusive == [("a", 0, 1.0, 1.0), ("b", 1, 0.5, 1.0), ("c", 2, 1.0, pytest.approx(2 / 3))]


def test_one_language_alone_has_nothing_to_be_told_from(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(14, make_record(languages=["a"]))])
    assert set(metrics.language_specialization(opened).select("specialization", "balanced").rows()) == {(None, None)}
    assert set(metrics.activation_gap(opened).select("lang", "gap").rows()) == {(None, None)}
    for name in ("zones_auto", "vocabulary_overlap", "divergence_vs_vocabulary"):
        assert frame_of(opened, name).is_empty()


def test_renaming_languages_changes_nothing_but_names(tmp_path: Path) -> None:
    world = make_world(11, make_record(languages=["a", "b", "c"]))
    names = {"a": "z", "b": "y", "c": "x"}
    renamed = World(make_record(languages=["z", "y", "x"]), {names[lang]: texts for lang, texts in world.texts.items()})
    for name, column in (
        ("jaccard", "jaccard"),
        ("divergence", "jsd"),
        ("divergence", "probability_jsd_normalized"),
        ("vocabulary_overlap", "type_jaccard"),
        ("vocabulary_overlap", "token_overlap"),
    ):
        by_pair = []
        for folder, shown in (("before", world), ("after", renamed)):
            back = (
                {new: old for old, new in names.items()} if shown is renamed else dict(zip("abc", "abc", strict=True))
            )
            frame = getattr(metrics, name)(open_worlds(tmp_path / name / column / folder, [shown]))
            by_pair.append(
                {
                    (row.get("layer"), *sorted((back[row["lang_a"]], back[row["lang_b"]]))): row[column]
                    for row in frame.to_dicts()
                }
            )
        assert by_pair[0].keys() == by_pair[1].keys()
        assert by_pair[0] == pytest.approx(by_pair[1], abs=1e-14)


def test_a_run_without_profiles_has_null_probabilities_and_no_similarity(tmp_path: Path) -> None:
    record = make_record(tables=["sequences", "tokens", "routes", "usage"])
    opened = open_worlds(tmp_path, [make_world(12, record)])
    for name, columns in {
        "activation": ["probability"],
        "routing_entropy": ["probability_entropy", "probability_entropy_normalized"],
        "divergence": ["probability_jsd", "probability_jsd_normalized"],
        "divergence_by_layer": ["probability_jsd", "probability_jsd_normalized"],
    }.items():
        frame = getattr(metrics, name)(opened)
        assert len(frame) > 0
        for column in columns:
            assert frame[column].null_count() == len(frame), (name, column)
        assert frame.drop(columns).null_count().sum_horizontal().item() == frame_nulls_expected(name, frame)
    with pytest.raises(MoetraceError, match=r"pivot_similarity has nothing of run 'run', .* without profiles$"):
        metrics.pivot_similarity(opened)
    assert missing_inputs(opened, "select * from activation") == []


def test_a_run_of_which_only_counts_are_known_has_no_rows_where_more_is_needed(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    counts = {"a": np.array([[4, 6]]), "b": np.array([[5, 5]])}
    opened = connect(write_counts(tmp_path, record, counts, {"a": 10, "b": 10}))
    of_tokens = ("vocabulary_overlap", "divergence_vs_vocabulary", "divergence_vocabulary_controlled")
    for name in (*of_tokens, "routing_consistency"):
        with pytest.raises(MoetraceError, match=f"{name} has nothing of run 'run', which was traced without"):
            getattr(metrics, name)(opened)
    with pytest.raises(MoetraceError, match="was traced without sequences and profiles"):
        metrics.score_correlation(opened, pl.DataFrame({"lang": ["a", "b"], "score": [1, 2]}))


def frame_of(opened: duckdb.DuckDBPyConnection, name: str, **equal: str) -> pl.DataFrame:
    return getattr(metrics, name)(opened).filter(**equal)


def frame_nulls_expected(name: str, frame: pl.DataFrame) -> int:
    # An expert that is never used has no mean weight; nothing else is unknown.
    return frame.filter(frequency=0).height if name == "activation" else 0
