"""Null models against loops over relabelled texts, and what they promise."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty import null_model
from moetrace.analytics.uncertainty.exchanged import permutations_of
from moetrace.analytics.uncertainty.statistics import METRICS
from moetrace.store.errors import MoetraceError, UnknownNameError
from tests.analytics.uncertainty.world import WORLD, reference_values, text_ids
from tests.support.stores import World, make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from tests.support.stores import Text

BY_ID = {lang: {text.text_id: text for text in texts} for lang, texts in WORLD.texts.items()}


def shared_ids(lang: str, other: str) -> list[str]:
    return sorted(set(BY_ID[lang]) & set(BY_ID[other]))


def moves(seed: int, pair: tuple[str, str], permutations: int) -> list[np.ndarray]:
    """Return which of the pair's shared texts change their labels: bits of the generator of the seed and the pair."""
    count = len(shared_ids(*pair))
    rng = permutations_of(seed, *pair)
    width = -(-count // 8)
    drawn = np.frombuffer(rng.bytes((1 + permutations) * width), np.uint8).reshape(-1, width)
    return [np.unpackbits(row)[:count].astype(bool) for row in drawn[1:]]


def exchanged(pair: tuple[str, str], move: np.ndarray) -> dict[str, list[Text]]:
    """Return the texts of two languages, those that move with the other's label."""
    lang, other = pair
    texts: dict[str, list[Text]] = {lang: [], other: []}
    for text_id, moved in zip(shared_ids(*pair), move, strict=True):
        texts[lang].append(BY_ID[other if moved else lang][text_id])
        texts[other].append(BY_ID[lang if moved else other][text_id])
    return texts


@pytest.mark.parametrize("metric", ["jaccard", "divergence"])
def test_the_null_of_a_pair_exchanges_its_two_languages_alone(metric: str, opened: duckdb.DuckDBPyConnection) -> None:
    rows = null_model(opened, metric, permutations=30, seed=2).to_dicts()
    assert len(rows) == 9
    for pair in combinations(sorted(WORLD.texts), 2):
        drawn = [reference_values(exchanged(pair, move), metric) for move in moves(2, pair, 30)]
        value = reference_values(exchanged(pair, np.zeros(len(shared_ids(*pair)), bool)), metric)
        for row in (row for row in rows if (row["lang_a"], row["lang_b"]) == pair):
            key = (row["layer"], *pair)
            null = np.array([found[key] for found in drawn])
            assert row["texts"] == len(shared_ids(*pair))
            assert row[METRICS[metric].column] == pytest.approx(value[key], abs=1e-9)
            assert row["null_mean"] == pytest.approx(null.mean(), abs=1e-9)
            assert row["null_lower"] == pytest.approx(np.quantile(null, 0.025), abs=1e-9)
            assert row["null_upper"] == pytest.approx(np.quantile(null, 0.975), abs=1e-9)
            sign = 1 if metric == "divergence" else -1
            more, tied = np.sum(sign * (null - value[key]) > 1e-9), np.sum(np.abs(null - value[key]) <= 1e-9)
            assert row["p_value"] == pytest.approx((1 + more + tied / 2) / 31)


@pytest.mark.parametrize("metric", ["jaccard", "divergence"])
def test_other_languages_in_the_call_change_nothing(metric: str, tmp_path: Path) -> None:
    languages = ["a", "b", "c", "d", "e"]
    write_world(tmp_path, make_world(8, make_record(languages=languages), texts=40))
    opened = connect(tmp_path)
    alone = null_model(opened, metric, languages=["b", "d"], permutations=100)
    among = null_model(opened, metric, permutations=100).filter(lang_a="b", lang_b="d")
    assert alone.equals(among)


def test_an_entropy_is_compared_with_that_of_another_language(opened: duckdb.DuckDBPyConnection) -> None:
    rows = null_model(opened, "routing_entropy", permutations=25, seed=4).to_dicts()
    assert {(row["lang"], row["against"]) for row in rows} == {("deu_Latn", "eng_Latn"), ("swh_Latn", "eng_Latn")}
    pair = ("swh_Latn", "eng_Latn")
    drawn = [reference_values(exchanged(pair, move), "routing_entropy") for move in moves(4, pair, 25)]
    value = reference_values(exchanged(pair, np.zeros(len(shared_ids(*pair)), bool)), "routing_entropy")
    for row in (row for row in rows if row["lang"] == "swh_Latn"):
        layer = row["layer"]
        null = np.array([found[layer, "swh_Latn"] - found[layer, "eng_Latn"] for found in drawn])
        difference = value[layer, "swh_Latn"] - value[layer, "eng_Latn"]
        assert row["entropy"] == pytest.approx(value[layer, "swh_Latn"], abs=1e-9)
        assert row["difference"] == pytest.approx(difference, abs=1e-9)
        assert row["null_mean"] == pytest.approx(null.mean(), abs=1e-9)
        further = np.sum(np.abs(null) > abs(difference) + 1e-9)
        tied = np.sum(np.abs(np.abs(null) - abs(difference)) <= 1e-9)
        assert row["p_value"] == pytest.approx((1 + further + tied / 2) / 26)


def test_a_specificity_is_compared_where_the_other_languages_stay(opened: duckdb.DuckDBPyConnection) -> None:
    rows = null_model(opened, "specificity", permutations=20, seed=1, against="deu_Latn").to_dicts()
    pair = ("swh_Latn", "deu_Latn")
    rest = {"eng_Latn": WORLD.texts["eng_Latn"]}
    drawn = [reference_values(exchanged(pair, move) | rest, "specificity") for move in moves(1, pair, 20)]
    own = reference_values(exchanged(pair, np.zeros(len(shared_ids(*pair)), bool)) | rest, "specificity")
    for row in (row for row in rows if row["lang"] == "swh_Latn"):
        key, other = ((row["layer"], lang, row["expert"]) for lang in pair)
        assert row["specificity"] == pytest.approx(own[key], abs=1e-9)
        assert row["difference"] == pytest.approx(own[key] - own[other], abs=1e-9)
        null = np.array([found[key] - found[other] for found in drawn])
        assert row["null_mean"] == pytest.approx(null.mean(), abs=1e-9)
        assert row["null_upper"] == pytest.approx(np.quantile(null, 0.975), abs=1e-9)


def test_the_null_of_similarity_compares_texts_with_other_texts_translations(tmp_path: Path) -> None:
    world = make_world(5, make_record(languages=["a", "b"]), texts=30)
    write_world(tmp_path / "own", world)
    frame = null_model(connect(tmp_path / "own"), "pivot_similarity", permutations=400)
    assert frame["p_value"].min() > 0.01  # texts of one id have nothing in common here
    assert (frame["null_lower"] <= frame["null_mean"]).all()
    assert (frame["null_mean"] <= frame["null_upper"]).all()
    write_world(tmp_path / "same", make_world(5, make_record(languages=["a", "b"]), texts=30, alike=[("a", "b")]))
    frame = null_model(connect(tmp_path / "same"), "pivot_similarity", permutations=400)
    assert frame["similarity"].to_list() == pytest.approx([1] * 3, abs=1e-6)
    assert (frame["null_upper"] < 1 - 1e-3).all()
    assert set(frame["p_value"]) == {1 / 401}
    excess = null_model(connect(tmp_path / "same"), "pivot_excess", permutations=400)
    assert excess["p_value"].equals(frame["p_value"])


def test_languages_that_are_the_same_do_not_differ_and_others_do(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b", "c"])
    write_world(tmp_path, make_world(3, record, texts=40, alike=[("a", "b")]))
    rows = null_model(connect(tmp_path), "divergence", permutations=200).to_dicts()
    found = {(row["lang_a"], row["lang_b"]): row for row in rows if row["layer"] == 1}
    assert found["a", "b"]["jsd"] == 0
    assert found["a", "b"]["p_value"] == (1 + 200 / 2) / 201  # every permutation is as the value is
    assert found["a", "c"]["p_value"] == found["a", "c"]["p_layers"] == pytest.approx(1 / 201)
    assert found["a", "c"]["jsd"] > found["a", "c"]["null_upper"]


def test_p_over_layers_is_that_of_the_most_extreme_layer(opened: duckdb.DuckDBPyConnection) -> None:
    pair = ("deu_Latn", "eng_Latn")
    rows = null_model(opened, "divergence", permutations=50, seed=7, languages=pair).to_dicts()
    none = np.zeros(len(shared_ids(*pair)), bool)
    drawn = [reference_values(exchanged(pair, move), "divergence") for move in [none, *moves(7, pair, 50)]]
    by_layer = {row["layer"]: np.array([found[row["layer"], *pair] for found in drawn]) for row in rows}
    extreme = {layer: (found - found.mean()) / found.std() for layer, found in by_layer.items()}
    most = np.max(list(extreme.values()), axis=0)
    for row in rows:
        value = extreme[row["layer"]][0]
        further, tied = np.sum(most[1:] > value + 1e-9), np.sum(np.abs(most[1:] - value) <= 1e-9)
        assert row["p_layers"] == pytest.approx((1 + further + tied / 2) / 51)
        assert row["p_layers"] >= row["p_value"] - 1e-12


def test_texts_of_their_own_are_dealt_out_again(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"])
    record.corpus["parallel"] = False
    world = make_world(3, record, texts=30)
    write_world(tmp_path / "other", world)
    frame = null_model(connect(tmp_path / "other"), "divergence", permutations=200)
    assert set(frame["texts"]) == {len(world.texts["a"]) + len(world.texts["b"])}
    assert frame["p_value"].max() == pytest.approx(1 / 201)
    halves = World(record, {"a": world.texts["a"][::2], "b": world.texts["a"][1::2]})
    write_world(tmp_path / "halves", halves)
    assert null_model(connect(tmp_path / "halves"), "divergence", permutations=200)["p_value"].min() > 0.01


@pytest.mark.parametrize("ties", ["half", "random", "all"])
def test_the_same_seed_gives_the_same_numbers(ties: str, opened: duckdb.DuckDBPyConnection) -> None:
    one, two, other = (null_model(opened, "jaccard", permutations=20, seed=seed, ties=ties) for seed in (1, 1, 2))
    assert one.equals(two)
    assert not one.equals(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "jaccard", "languages": ["swh_Latn"]}, "jaccard compares two languages; name another beside swh"),
        ({"metric": "divergence", "against": "eng_Latn"}, "divergence compares pairs of languages"),
        ({"metric": "routing_entropy", "languages": ["eng_Latn"]}, "routing_entropy of eng_Latn alone has no null hyp"),
        ({"metric": "specificity", "languages": ["eng_Latn"]}, "specificity of eng_Latn alone has no null hypothesis"),
        (
            {"metric": "routing_entropy", "languages": ["swh_Latn"]},
            "compared with the pivot, eng_Latn, which languages",
        ),
        ({"metric": "pivot_similarity", "languages": ["eng_Latn"]}, "eng_Latn would be compared with itself"),
        ({"metric": "jaccard", "ties": "none"}, "ties 'none': pass one of half, random, all"),
        ({"metric": "jaccard", "permutations": 0}, "permutations 0, level 0.95: pass at least 1"),
    ],
)
def test_what_has_no_null_hypothesis_is_refused(
    arguments: dict[str, Any], message: str, opened: duckdb.DuckDBPyConnection
) -> None:
    with pytest.raises(MoetraceError, match=message):
        null_model(opened, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "jacard"}, "has no metric with an uncertainty 'jacard'; did you mean jaccard"),
        ({"metric": "jaccard", "run": "x"}, "has no run 'x'"),
        ({"metric": "routing_entropy", "against": "swh"}, "has no language 'swh'; did you mean swh_Latn"),
    ],
)
def test_what_is_not_there_is_one_line(
    arguments: dict[str, Any], message: str, opened: duckdb.DuckDBPyConnection
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        null_model(opened, **arguments)


def test_languages_without_a_common_text_have_nothing_to_exchange(tmp_path: Path) -> None:
    world = make_world(9, make_record(languages=["a", "b"]), texts=8)
    ids = text_ids(world)
    texts = {
        lang: [text for text in found if (text.text_id in ids[:4]) == (lang == "a")]
        for lang, found in world.texts.items()
    }
    write_world(tmp_path, World(world.record, texts))
    with pytest.raises(MoetraceError, match="a and b have no text in common to exchange"):
        null_model(connect(tmp_path), "divergence")
