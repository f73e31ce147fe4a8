"""Drawing a control for a mask."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.masks.mask import build_mask
from moetrace.analytics.selection import random, rise, task, top_k
from moetrace.analytics.selection.selection import SelectionError
from moetrace.store.mask import MaskError
from moetrace.store.read.reader import Store
from tests.support.selections import CREATED, RECORD, cells

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


def test_a_control_has_as_many_experts_of_each_layer_in_the_same_roles(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(rise(opened, "run", ["swh_Latn"], budget=23, min_count=0), RECORD, CREATED)
    drawn = [random(opened, "run", like=like, seed=seed) for seed in range(40)]

    def kinds(experts: Any) -> list[tuple[int, str, str]]:
        return sorted((item["layer"], item["role"], item["zone"]) for item in experts)

    for selection in drawn:
        assert kinds(build_mask(selection, RECORD, CREATED)["experts"]) == kinds(like["experts"])
        assert len(set(cells(selection))) == 23
    assert len({tuple(cells(selection)) for selection in drawn}) == 40
    counts = np.zeros(8)
    for selection in drawn:
        counts += np.bincount([item.expert for item in selection.experts], minlength=8)
    # 115 of each are expected, with a standard deviation of 9 at most.
    assert counts.min() > 80
    assert counts.max() < 150


def test_a_seed_means_the_same_everywhere(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(top_k(opened, "run", per_layer=3, min_count=0), RECORD, CREATED)
    found = random(opened, "run", like=like, seed=7)
    assert "".join(str(item.expert) for item in found.experts) == "125045136357267456347234"
    assert found.experts == random(opened, "run", like=like, seed=7).experts
    assert found.parameters["like"]["experts"] == 24


def test_a_control_is_for_the_same_model_only(opened: duckdb.DuckDBPyConnection) -> None:
    like = build_mask(top_k(opened, "run", per_layer=3, min_count=0), RECORD, CREATED)
    for run, message in (
        ("deeper", "MoE layers are 2-9, this model's are 2-10"),
        ("wider", "8 experts in a layer, this model has 9"),
    ):
        with pytest.raises(MaskError, match=f"like.json: .*{message}"):
            random(opened, run, like=like, where="like.json")
    with pytest.raises(SelectionError, match="the mask has no experts"):
        random(opened, "run", like={**like, "experts": []})


def test_the_mask_of_a_control_names_what_it_is_a_control_for(folder: Path) -> None:
    connection, record = connect(folder), Store(folder).run("run")
    like = build_mask(task(connection, "run", against="general"), record, CREATED)
    control = build_mask(random(connection, "run", like=like, seed=1), record, CREATED)
    assert control["strategy"]["parameters"]["like"]["strategy"] == "task"
    assert {item["role"] for item in control["experts"]} == {"task"}
    assert json.dumps(control) == json.dumps(
        build_mask(random(connection, "run", like=json.loads(json.dumps(like)), seed=1), record, CREATED)
    )
    other = replace(record, model={**record.model, "config_sha256": "1" * 64})
    with pytest.raises(MaskError, match=r"config digest 1111"):
        random(connection, "run", like=build_mask(top_k(connection, "run", budget=3, min_count=0), other, CREATED))
