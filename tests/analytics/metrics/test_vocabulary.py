"""The vocabulary that languages share, and what of their divergence it explains."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import polars as pl
import pytest
from scipy import stats

from moetrace.analytics import metrics
from moetrace.analytics.database.documentation import view
from moetrace.store.errors import MoetraceError
from tests.support.stores import World, make_record, make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path


def test_a_language_of_unknown_token_ids_has_no_vocabulary(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(15)])
    names = ("vocabulary_overlap", "divergence_vocabulary_controlled")
    whole = {name: getattr(metrics, name)(opened) for name in names}
    opened.execute(
        "create or replace view tokens as select * replace (if(lang = 'deu_Latn', null, token_id) as token_id) "
        "from files.tokens"
    )
    for name, layers in zip(names, (1, 3), strict=True):
        known = whole[name].filter((pl.col("lang_a") != "deu_Latn") & (pl.col("lang_b") != "deu_Latn"))
        assert getattr(metrics, name)(opened).to_dicts() == [pytest.approx(row) for row in known.to_dicts()]
        assert len(known) == layers


def routed_by_token_id(world: World, frequency: dict[str, np.ndarray]) -> World:
    """Return a world of texts of 400 tokens, ids drawn by each language's frequencies, the id deciding the experts."""
    rng = np.random.default_rng(0)
    layers, experts, top_k = len(world.record.moe_layers), world.record.num_experts, world.record.top_k
    choice = np.stack([[rng.permutation(experts)[:top_k] for _ in range(layers)] for _ in range(30)])
    texts = {}
    for lang, found in world.texts.items():
        ids = rng.choice(30, size=400, p=frequency[lang]).astype(np.int32)
        weights = np.full((400, layers, top_k), 1 / top_k, dtype=np.float32)
        chosen = choice[ids].astype(found[0].experts.dtype)
        texts[lang] = [replace(found[0], token_ids=ids, experts=chosen, weights=weights)]
    return World(world.record, texts)


def test_divergence_that_is_vocabulary_alone_is_gone_where_vocabulary_is_controlled(tmp_path: Path) -> None:
    world = make_world(20, make_record(languages=["a", "b"]))
    rising = np.arange(1, 31) / np.arange(1, 31).sum()
    opened = open_worlds(tmp_path, [routed_by_token_id(world, {"a": rising, "b": rising[::-1]})])
    found = metrics.divergence_vocabulary_controlled(opened)
    assert min(found["jsd"]) > 0.005
    assert max(found["jsd_controlled"]) < 1e-12
    overlap = metrics.vocabulary_overlap(opened)["token_overlap"].item()
    assert found["token_share"].to_list() == pytest.approx([overlap] * 3)


def test_divergence_of_the_same_vocabulary_stays_where_vocabulary_is_controlled(tmp_path: Path) -> None:
    world = make_world(21, make_record(languages=["a", "b"]), texts=1)
    ids = np.zeros(5, dtype=np.int32)
    texts = {
        lang: [
            replace(
                found[0],
                token_ids=ids,
                experts=np.tile(np.arange(start, start + 2, dtype=np.uint8), (5, 3, 1)),
                weights=np.full((5, 3, 2), 0.5, dtype=np.float32),
            )
        ]
        for start, (lang, found) in zip((0, 4), world.texts.items(), strict=True)
    }
    found = metrics.divergence_vocabulary_controlled(open_worlds(tmp_path, [World(world.record, texts)]))
    for row in found.select("jsd", "jsd_controlled", "token_share").rows():
        assert row == pytest.approx((math.log(2), math.log(2), 1))


def test_languages_that_share_no_token_id_have_no_controlled_divergence(tmp_path: Path) -> None:
    world = make_world(22, make_record(languages=["a", "b", "c"]))
    moved = [replace(text, token_ids=text.token_ids + 1000) for text in world.texts["c"]]
    opened = open_worlds(tmp_path, [World(world.record, {**world.texts, "c": moved})])
    found = metrics.divergence_vocabulary_controlled(opened)
    apart = found.filter(lang_b="c")
    assert len(apart) == 6
    assert set(apart.select("jsd_controlled", "token_share").rows()) == {(None, 0.0)}
    assert found.filter(lang_b="b")["jsd_controlled"].null_count() == 0
    assert found["jsd"].null_count() == 0


def test_mantel_p_is_right_where_the_p_of_independent_pairs_is_not() -> None:
    """Each language is odd by both measures, independently: its pairs are odd together."""
    tables, languages, permutations = 300, 10, 199
    rng = np.random.default_rng(0)
    a, b = np.triu_indices(languages, 1)
    rows = []
    for table in range(tables):
        jsd, overlap = (np.add.outer(odd, odd)[a, b] for odd in rng.random((2, languages)))
        rows += [(f"t{table:03}", f"l{x}", f"l{y}", *values) for x, y, *values in zip(a, b, jsd, overlap, strict=True)]
    opened = duckdb.connect()
    opened.register("given", pl.DataFrame(rows, schema=["run", "lang_a", "lang_b", "jsd", "overlap"], orient="row"))
    opened.execute(
        "create macro vocabulary_overlap(languages := null) as table "
        "select run, lang_a, lang_b, overlap as type_jaccard, overlap * overlap as token_overlap from given; "
        "create macro divergence(languages := null, layers := null) as table "
        "select run, 1 as layer, lang_a, lang_b, jsd, sqrt(jsd) as jsd_normalized from given"
    )
    opened.execute(view("divergence_vs_vocabulary").sql)
    found = opened.sql(f"from divergence_vs_vocabulary(permutations := {permutations})").pl()
    assert len(found) == tables
    spread = 3 * math.sqrt(0.05 * 0.95 / tables)
    for column in ("p_type", "p_token"):
        assert (found[column] <= 0.05).mean() == pytest.approx(0.05, abs=spread)
        assert stats.kstest(found[column], "uniform").pvalue > 0.01
    degrees = len(a) - 2
    t = found["r_type"].abs() * (degrees / (1 - found["r_type"] ** 2)).sqrt()
    assert np.mean(2 * stats.t.sf(t, degrees) <= 0.05) > 0.15


def test_fewer_than_no_permutations_are_refused(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(23)])
    with pytest.raises(MoetraceError, match="permutations = -1: 0 is none"):
        metrics.divergence_vs_vocabulary(opened, permutations=-1)
    with pytest.raises(MoetraceError, match="permutations = -1: 0 is none"):
        metrics.score_correlation(opened, pl.DataFrame({"lang": ["deu_Latn"], "score": [1]}), permutations=-1)
