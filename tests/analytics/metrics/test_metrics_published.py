"""Metrics and selection on published counts: Qwen3-30B-A3B on MGSM (2601.14050), 48 layers x 128 experts, top-8."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import gap, rise, top_k, top_p
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
        selection = select(connection, "run", ["bn"], budget=budget)
        assert len({(item.layer, item.expert) for item in selection.experts}) == budget


def test_every_strategy_for_one_run_selects_from_published_counts(imported: Path) -> None:
    connection = connect(imported)
    for selection in (gap(connection, "run", ["bn"]), top_p(connection, "run", ["bn"], score="gate")):
        assert selection.experts
        assert selection.languages == (("bn", "en") if selection.strategy == "gap" else ("bn",))
    last = [item for item in gap(connection, "run", ["bn"]).experts if item.role == "shared"]
    assert [item.layer for item in last] == [46] * 8 + [47] * 8


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
