"""Making a mask of a selection: what it says, and that it is the same to the byte."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.masks.mask import build_mask
from moetrace.store.mask import mask_text
from tests.support.selections import CREATED, six_experts
from tests.support.stores import make_record

if TYPE_CHECKING:
    from moetrace.analytics.selection.selection import Selection

RECORD = make_record()


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    return six_experts(tmp_path_factory.mktemp("store"))


def test_a_mask_names_model_strategy_experts_and_provenance(selection: Selection) -> None:
    mask = build_mask(selection, RECORD, CREATED)
    assert mask["model"] == {
        "id": "synthetic",
        "revision": None,
        "config_sha256": "0" * 64,
        "moe_layers": [1, 2, 5],
        "num_experts": 8,
        "top_k": 2,
        "family": "qwen3_moe",
    }
    assert mask["strategy"]["name"] == "rise"
    assert mask["strategy"]["target"] == "swh_Latn"
    load = {"target": selection.load.target, "others": selection.load.others}
    assert 0 < load["others"] < load["target"] < 1
    assert mask["summary"] == {
        "experts": 6,
        "pool": 24,
        "parameters": 6000,
        "share_of_model": 0.125,
        "load": load,
    }
    assert [item["count"] for item in mask["experts"]] == [item.count for item in selection.experts]
    assert mask["provenance"]["run_sha256"] == RECORD.sha256()
    assert mask["provenance"]["languages"] == ["deu_Latn", "eng_Latn", "swh_Latn"]
    assert mask["provenance"]["created"] == CREATED
    assert [item["role"] for item in mask["experts"] if item["zone"] == "middle"] == ["shared"]


def test_several_targets_are_a_list_and_none_is_null(selection: Selection) -> None:
    several = build_mask(replace(selection, targets=("a", "b")), RECORD, CREATED)
    nobody = build_mask(replace(selection, targets=()), RECORD, CREATED)
    assert several["strategy"]["target"] == ["a", "b"]
    assert nobody["strategy"]["target"] is None
    assert mask_text(several)
    assert mask_text(nobody)


@pytest.mark.parametrize("unknown", [("parameters_per_expert", "parameters"), ("parameters",)])
def test_unknown_sizes_are_null(unknown: tuple[str, ...], selection: Selection) -> None:
    model = {name: value for name, value in RECORD.model.items() if name not in unknown}
    summary = build_mask(selection, replace(RECORD, model=model), CREATED)["summary"]
    assert summary["share_of_model"] is None
    assert summary["parameters"] == (None if "parameters_per_expert" in unknown else 6000)


def test_the_same_selection_is_the_same_bytes(selection: Selection) -> None:
    shuffled = replace(selection, experts=selection.experts[::-1])
    noisy = replace(
        selection, experts=tuple(replace(item, score=item.score * (1 + 1e-14)) for item in selection.experts)
    )
    texts = {mask_text(build_mask(chosen, RECORD, CREATED)) for chosen in (selection, shuffled, noisy)}
    assert len(texts) == 1
    assert texts.pop().count('{"layer": ') == len(selection.experts)
