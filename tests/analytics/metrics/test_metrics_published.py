"""Metrics and selection on published counts: Qwen3-30B-A3B on MGSM (2601.14050), 48 layers x 128 experts, top-8."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.masks.mask import build_mask
from moetrace.analytics.selection import gap, random, rise, top_k, top_p
from moetrace.cli.main import run as moetrace
from tests.support.published import import_files
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from moetrace.analytics.selection.selection import SelectedExpert

LANGUAGES = ("bn", "de", "en", "es", "sw", "zh")


@pytest.fixture(scope="module")
def opened(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    counts, tokens = {}, {}
    for lang in LANGUAGES:
        published = json.loads((shared_data / "qwen3-30b-a3b-mgsm" / f"mgsm_{lang}.json").read_text())
        counts[lang] = np.array(
            [
                [
                    published[str(layer)].get(str(expert), {"activation_tokens": 0})["activation_tokens"]
                    for expert in range(128)
                ]
                for layer in range(48)
            ]
        )
        tokens[lang] = published["0"]["total_tokens"]
    record = make_record("mgsm", LANGUAGES, moe_layers=range(48), num_experts=128, top_k=8, tables=["usage"])
    return connect(write_counts(tmp_path_factory.mktemp("mgsm"), record, counts, tokens))


@pytest.mark.parametrize(("lang_a", "lang_b", "mean"), [("bn", "en", 0.212), ("en", "sw", 0.144), ("en", "es", 0.514)])
def test_mean_overlap_of_expert_sets(lang_a: str, lang_b: str, mean: float, opened: duckdb.DuckDBPyConnection) -> None:
    pair = metrics.jaccard_by_pair(opened).filter(lang_a=lang_a, lang_b=lang_b)
    assert pair["jaccard"].item() == pytest.approx(mean, abs=5e-4)
    assert pair["layers"].item() == 48


def test_rise_selects_the_experts_of_bengali(opened: duckdb.DuckDBPyConnection) -> None:
    selection = rise(opened, "mgsm", ["bn"], reference=["en"], budget=128)
    best = {zone: best_of(selection.experts, zone) for zone in ("shallow", "middle", "deep")}
    assert {zone: (item.layer, item.expert) for zone, item in best.items()} == {
        "shallow": (0, 9),
        "middle": (26, 89),
        "deep": (46, 110),
    }
    assert [round(item.score, 3) for item in best.values()] == [21.443, 8.833, 21.517]
    zones = [item.zone for item in selection.experts]
    assert {zone: zones.count(zone) for zone in best} == {"shallow": 44, "middle": 32, "deep": 52}


@pytest.fixture(scope="module")
def imported(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bengali and English, imported as they were published."""
    store = tmp_path_factory.mktemp("imported") / "store"
    folder = shared_data / "qwen3-30b-a3b-mgsm"
    import_files("usage-json", store, *(f"{lang}={folder}/mgsm_{lang}.json" for lang in ("bn", "en")))
    return store


def test_published_counts_become_a_mask(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["export", "rise", str(imported), "--target", "bn", "--budget", "128"]
    assert moetrace(call) == 0
    mask = json.loads(capsys.readouterr().out)
    for layer, expert, score in ((0, 9, 21.443), (26, 89, 8.833), (46, 110, 21.517)):
        found = next(item for item in mask["experts"] if (item["layer"], item["expert"]) == (layer, expert))
        assert found["score"] == pytest.approx(score, abs=5e-4)
        assert found["score"] == max(item["score"] for item in mask["experts"] if item["zone"] == found["zone"])
    assert mask["summary"]["experts"] == 128
    assert mask["summary"]["pool"] == 6144
    assert mask["provenance"]["languages"] == ["bn", "en"]


@pytest.mark.parametrize("budget", [1, 2, 3, 10, 127, 129, 1000, 2304, 3000, 5000, 6143, 6144])
def test_a_budget_is_met_to_the_expert(budget: int, imported: Path) -> None:
    connection = connect(imported)
    for select in (rise, top_k):
        selection = select(connection, "run", ["bn"], budget=budget, min_count=0)
        assert len({(item.layer, item.expert) for item in selection.experts}) == budget


def test_every_strategy_for_one_run_selects_from_published_counts(imported: Path) -> None:
    connection = connect(imported)
    for selection in (gap(connection, "run", ["bn"]), top_p(connection, "run", ["bn"], score="gate")):
        assert selection.experts
        assert selection.languages == (("bn", "en") if selection.strategy == "gap" else ("bn",))
    last = [item for item in gap(connection, "run", ["bn"]).experts if item.role == "shared"]
    assert [item.layer for item in last] == [46] * 5 + [47] * 5


def test_rise_takes_no_expert_that_the_language_hardly_uses(opened: duckdb.DuckDBPyConnection) -> None:
    def specific(**options: int) -> dict[tuple[int, int], SelectedExpert]:
        found = rise(opened, "mgsm", ["de"], budget=128, **options)
        return {(item.layer, item.expert): item for item in found.experts if item.role == "specific"}

    plain, held = specific(min_count=0), specific()
    assert len(plain) == len(held) == 96
    few = {cell: item.count for cell, item in plain.items() if item.count <= 12}
    # Of 23,433 tokens, where uniform is 1,465; alone among six languages: the highest specificity there can be.
    assert few == {(8, 58): 1, (13, 70): 3}
    assert [plain[cell].specificity for cell in few] == [pytest.approx(6)] * 2
    assert min(item.count for item in held.values()) == 1125
    assert set(plain) - set(held) == set(few)
    # (15, 108) has one, too; with a larger part of the budget for the shallow zone it would be among them.
    assert specific(min_count=0, shallow=0.4)[15, 108].count == 1
    assert (15, 108) not in specific(shallow=0.4)
    shrunk = rise(opened, "mgsm", ["de"], budget=128, min_count=0, shrinkage=100)
    assert min(item.count for item in shrunk.experts if item.role == "specific") > 1000


@pytest.mark.parametrize(
    ("child", "parent", "beside", "borrowed"),
    [
        ("es", "en", 44, 47),
        ("de", "en", 44, 45),
        ("es", "de", 4, 9),
        ("de", "es", 4, 7),
        ("bn", "sw", 9, 17),
        ("sw", "en", 44, 44),
    ],
)
def test_a_parents_set_is_larger_without_the_child_beside_it(
    child: str, parent: str, beside: int, borrowed: int, opened: duckdb.DuckDBPyConnection
) -> None:
    found = gap(opened, "mgsm", [child], parent=parent, shared=0)
    assert found.languages == tuple(lang for lang in LANGUAGES if lang != child)
    # With the child among those compared: what it leads in, too, is not its parent's any more.
    with_child = gap(opened, "mgsm", [parent], shared=0)
    assert (len(with_child.experts), len(found.experts)) == (beside, borrowed)


@pytest.mark.parametrize("target", ["de", "sw"])
def test_a_control_takes_the_load_that_others_allow(target: str, opened: duckdb.DuckDBPyConnection) -> None:
    record = make_record("mgsm", LANGUAGES, moe_layers=range(48), num_experts=128, top_k=8, tables=["usage"])
    like = build_mask(rise(opened, "mgsm", [target], budget=128), record, "2025-01-01T00:00:00+00:00")
    by_count, by_load, nearest = (
        random(opened, "mgsm", like=like, exclude={"like": like}, **options)
        for options in ({}, {"match": "load"}, {"match": "load", "slack": 0})
    )
    own = {(item["layer"], item["expert"]) for item in like["experts"]}
    assert not own & {(item.layer, item.expert) for item in (*by_load.experts, *nearest.experts)}
    count = dict(opened.sql(f"select (layer, expert), count from usage_by_language where lang = '{target}'").fetchall())
    for layer in range(48):
        theirs = sum(count[cell] for cell in own if cell[0] == layer)
        number = sum(cell[0] == layer for cell in own)
        rest = sorted((count[layer, expert] for expert in range(128) if (layer, expert) not in own), reverse=True)
        ours = sum(count[item.layer, item.expert] for item in nearest.experts if item.layer == layer)
        if sum(rest[:number]) <= theirs:
            assert ours == sum(rest[:number])  # all that there is to have
        elif abs(ours - theirs) > 0.001 * theirs:
            assert number <= 3
            assert abs(ours - theirs) == min(abs(sum(few) - theirs) for few in combinations(rest, number))
    assert by_count.load.target < 0.5 * by_load.load.target < by_load.load.target <= nearest.load.target
    assert nearest.load.target < like["summary"]["load"]["target"]


def test_languages_lie_closest_where_rise_says_meaning_is_shared(opened: duckdb.DuckDBPyConnection) -> None:
    by_zone = opened.sql(
        """
        select zone, avg(jsd)
        from divergence
        inner join zones using (run, layer)
        group by zone
        """
    ).fetchall()
    assert min(by_zone, key=lambda row: row[1])[0] == "middle"


def best_of(experts: tuple[SelectedExpert, ...], zone: str) -> SelectedExpert:
    return max((item for item in experts if item.zone == zone), key=lambda item: item.score)
