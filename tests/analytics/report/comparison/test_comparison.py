"""Two runs side by side: what differs is said, what other texts could undo is not, and the same run does not differ."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.analytics.metrics.agreement import agreement_by_text, decisions
from moetrace.analytics.report.comparison.page import write_comparison
from moetrace.store.errors import StoreError, UnknownNameError
from tests.support.report_page import Page
from tests.support.stores import World, make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS = ["agreement", "isolation", "divergence", "excess", "similarity", "entropy", "moved", "made"]


def renamed(world: World, run: str, **model: Any) -> World:
    return World(replace(world.record, run=run, model={**world.record.model, **model}), world.texts)


def rerouted(world: World, run: str, lang: str) -> World:
    """The same world where one language's tokens go to the experts beside those that they went to."""
    experts = world.record.num_experts
    moved = [
        replace(
            text,
            experts=((text.experts.astype(int) + 1) % experts).astype(text.experts.dtype),
            profile=np.roll(text.profile, 1, axis=1),
        )
        for text in world.texts[lang]
    ]
    return World(replace(world.record, run=run), {**world.texts, lang: moved})


def report(tmp_path: Path, *worlds: World, **options: Any) -> Page:
    """The page of two worlds in one store."""
    for world in worlds:
        write_world(tmp_path / "store", world)
    (first, second) = (world.record.run for world in worlds)
    store = tmp_path / "store"
    return Page(write_comparison((store, first), (store, second), tmp_path / "both.html", **options))


def test_a_run_and_its_copy_do_not_differ(tmp_path: Path) -> None:
    world = make_world(3, make_record("base"), texts=20)
    page = report(tmp_path, world, renamed(world, "copy"))
    assert [name for name in page.text if name] == SECTIONS
    assert "100.00% of " in page.text["agreement"]
    assert page.check_charts() > 10
    for name in ("isolation", "divergence", "excess", "similarity", "entropy"):
        assert page.dataset(f"{name}_difference")["value"].to_list() == pytest.approx([0] * 3, abs=1e-12)
        assert "differs in no layer" in page.text[name]
    assert page.dataset("moved")["jsd"].to_list() == pytest.approx([0] * 9, abs=1e-12)
    assert "In no layer have languages moved" in page.text["moved"]
    assert "The records differ in nothing but their names" in page.text["made"]


def test_what_the_records_say_differently_is_named(tmp_path: Path) -> None:
    world = make_world(3, make_record("base"), texts=8)
    half = renamed(world, "half", dtype="float16", revision="abc")
    page = report(tmp_path, world, half, replicates=0)
    assert "The records differ in model revision and data type." in page.text["made"]
    assert "model revision and data type" in page.text[""]
    for made in (world, half):
        assert made.record.sha256() in page.text["made"]
    assert views()["route_agreement"].row in page.text["made"]
    assert views()["overlap"].row not in page.text["made"]  # a column of a query is called so


def test_a_language_that_is_routed_otherwise_is_found(tmp_path: Path) -> None:
    world = make_world(3, make_record("base"), texts=20)
    page = report(tmp_path, world, rerouted(world, "tuned", "swh_Latn"))
    by_language = dict(page.dataset("agreement").group_by("lang").agg(pl.col("equal_sets").mean()).iter_rows())
    assert by_language["eng_Latn"] == by_language["deu_Latn"] == 1
    assert by_language["swh_Latn"] < 0.2
    moved = dict(page.dataset("moved").group_by("lang").agg(pl.col("jsd").mean()).iter_rows())
    assert moved["swh_Latn"] > 0.05
    assert moved["eng_Latn"] == pytest.approx(0, abs=1e-9)
    assert "largest for swh_Latn" in page.text["moved"]
    similar = page.dataset("similarity_languages")
    apart = similar.filter((pl.col("low") > 0) | (pl.col("high") < 0))["lang"].to_list()
    assert apart == ["swh_Latn"]
    assert "Differences are of the same draws of the same texts." in page.text["entropy"]


def test_differences_are_those_of_the_views(tmp_path: Path) -> None:
    base, tuned = make_world(3, make_record("base"), texts=12), make_world(9, make_record("tuned"), texts=12)
    page = report(tmp_path, base, tuned)
    store = connect(tmp_path / "store")
    for name, frame, column, sign in (
        ("isolation", metrics.jaccard_by_layer(store), "jaccard", -1),
        ("divergence", metrics.divergence_by_layer(store), "jsd_normalized", 1),
    ):
        wide = frame.pivot("run", index="layer", values=column).sort("layer")
        expected = sign * (wide["tuned"] - wide["base"]).to_numpy()
        assert page.dataset(f"{name}_difference")["value"].to_numpy() == pytest.approx(expected, abs=1e-4)
    entropies = metrics.routing_entropy(store).group_by("run", "lang").agg(pl.col("entropy_normalized").mean())
    wide = entropies.pivot("run", index="lang", values="entropy_normalized").sort("lang")
    found = page.dataset("entropy_languages").sort("lang")
    assert found["value"].to_numpy() == pytest.approx((wide["tuned"] - wide["base"]).to_numpy(), abs=1e-4)
    assert np.all(found["low"].to_numpy() < found["high"].to_numpy())


def test_agreement_text_by_text_adds_up_to_the_view(tmp_path: Path) -> None:
    base, tuned = make_world(3, make_record("base"), texts=8), make_world(3, make_record("tuned"), texts=8)
    worlds = (base, rerouted(tuned, "tuned", "deu_Latn"))
    for world in worlds:
        write_world(tmp_path / "store", world)
    store = connect(tmp_path / "store")
    expected = metrics.route_agreement(store, "base", "tuned").sort("lang", "layer")
    languages = sorted(base.texts)
    for layer in (1, 2, 5):
        both = (decisions(store, run, languages, layer) for run in ("base", "tuned"))
        texts = agreement_by_text(*both, top_k=2)
        for row in expected.filter(layer=layer).iter_rows(named=True):
            mine = texts.filter(lang=row["lang"])
            tokens, shared = mine["tokens"].sum(), mine["shared"].sum()
            assert (tokens, mine["other_tokens"].sum()) == (row["tokens"], row["other_tokens"])
            assert mine["equal_sets"].sum() / tokens == pytest.approx(row["equal_sets"])
            assert shared / (2 * tokens) == pytest.approx(row["overlap"])
            if shared:
                assert mine["weight_errors"].sum() / shared == pytest.approx(row["weight_error"], abs=1e-9)
                assert mine["largest_weight_error"].max() == pytest.approx(row["largest_weight_error"])


def test_two_stores_with_runs_of_one_name(tmp_path: Path) -> None:
    world = make_world(3, make_record("run"), texts=10)
    write_world(tmp_path / "a", world)
    write_world(tmp_path / "b", rerouted(world, "run", "deu_Latn"))
    page = Page(write_comparison((tmp_path / "a", None), (tmp_path / "b", None), tmp_path / "both.html"))
    assert "a: run and b: run" in page.text[""]
    found = dict(page.dataset("agreement").group_by("lang").agg(pl.col("equal_sets").mean()).iter_rows())
    assert found["eng_Latn"] == 1
    assert found["deu_Latn"] < 0.5


def test_models_of_other_depth_are_laid_over_the_same_depth(tmp_path: Path) -> None:
    shallow = make_world(3, make_record("shallow"), texts=8)
    deep = make_world(4, make_record("deep", moe_layers=(0, 1, 2, 3, 4, 5), num_experts=12), texts=8)
    page = report(tmp_path, shallow, deep)
    assert "no expert that is the same in both" in page.text["agreement"]
    assert "no expert is the same in both" in page.text["moved"]
    depths = page.dataset("isolation").filter(run="shallow")["depth"].to_list()
    assert depths == pytest.approx([1 / 6, 3 / 6, 5 / 6], abs=1e-4)
    assert "isolation_difference" not in page.content["datasets"]
    assert "by zone: shallow" in page.text["isolation"]
    assert "compared by depth" in page.text[""]


def test_counts_alone_are_compared_without_intervals(tmp_path: Path) -> None:
    languages = ("eng_Latn", "swh_Latn")
    for run, order in (("a", 1), ("b", -1)):
        record = make_record(run, tables=("usage",), languages=languages)
        counts = {"eng_Latn": np.full((3, 8), 5), "swh_Latn": np.tile(np.arange(1, 9)[::order], (3, 1))}
        write_counts(tmp_path / "store", record, counts, {"eng_Latn": 20, "swh_Latn": 18})
    store = tmp_path / "store"
    page = Page(write_comparison((store, "a"), (store, "b"), tmp_path / "both.html"))
    assert set(page.dataset("divergence")["low"]) == {None}
    assert "no interval is known" in page.text["divergence"]
    assert "has no sequences" in page.text["agreement"]
    assert page.dataset("moved").height == 6


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    write_world(tmp_path / "store", make_world(3, make_record("a", languages=("eng_Latn", "deu_Latn"))))
    write_world(tmp_path / "store", make_world(3, make_record("b", languages=("spa_Latn", "swh_Latn"))))
    store, page = tmp_path / "store", tmp_path / "both.html"
    with pytest.raises(StoreError, match="no language in common"):
        write_comparison((store, "a"), (store, "b"), page)
    with pytest.raises(StoreError, match="compared with itself"):
        write_comparison((store, "a"), (store, "a"), page)
    with pytest.raises(UnknownNameError, match="'c'"):
        write_comparison((store, "a"), (store, "c"), page)
    assert not page.exists()
