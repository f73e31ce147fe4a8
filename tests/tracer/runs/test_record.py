"""The record of a trace: planned without an engine, and completed by one, or by the run that the store has."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.store.errors import RunMismatchError
from moetrace.store.storage.open import open_storage
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.runs.planning import open_inputs, plan_trace
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.record import planned_record, resumed_record, stored_record, traced_record
from moetrace.tracer.runs.settings import TraceSettings

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.format.records import RunRecord

SETTINGS = TraceSettings(languages=("eng_Latn", "swh_Latn"), sample=5)


class Stages(TraceProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, message: str, total: int | None = None) -> None:  # noqa: ARG002
        self.said.append(message)


def planned(settings: TraceSettings = SETTINGS) -> RunRecord:
    progress = Stages()
    inputs = open_inputs(str(MODEL), str(CORPUS), settings, revision=None, progress=progress)
    found = plan_trace(inputs, settings, progress)
    assert progress.said == [f"reading {MODEL}", f"tokenising {CORPUS}"]
    assert {shard.lang for shard in found.plan.shards} == {"eng_Latn", "swh_Latn"}
    return planned_record("run", found)


def engine(weight: float) -> Any:
    """What a record asks an engine for."""
    probe = SimpleNamespace(weights=np.full((3, 8, 4), weight, dtype=np.float32))
    return SimpleNamespace(moe_layers=list(range(8)), dtype="float32", probe=probe)


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return planned()


def test_what_only_an_engine_knows_is_left_to_it(record: RunRecord) -> None:
    assert not {"moe_layers", "dtype"} & record.model.keys()
    assert "weight_precision" not in record.settings
    traced = traced_record(record, engine(0.25), "f32")
    assert traced.moe_layers == list(range(8))
    assert (traced.model["dtype"], traced.settings["weight_precision"]) == ("float32", "f32")


@pytest.mark.parametrize(("weight", "grid"), [(0.25, ("bf16", True)), (1 / 3, ("f16", False))])
def test_the_grid_is_bf16_where_the_probes_weights_lie_on_it(
    record: RunRecord, weight: float, grid: tuple[str, bool]
) -> None:
    settings = traced_record(record, engine(weight), "auto").settings
    assert (settings["weight_precision"], settings["weight_precision_exact"]) == grid


def test_a_run_that_goes_on_has_the_record_that_the_store_has(record: RunRecord, tmp_path: Path) -> None:
    assert stored_record(open_storage(tmp_path / "new"), "another") is None
    first = StoreWriter(tmp_path / "store", traced_record(record, engine(0.25), "auto"))
    assert stored_record(first.storage, "run") is None  # no shard was accepted yet
    first._write_run_record()
    stored = stored_record(first.storage, "run")
    assert stored is not None
    StoreWriter(tmp_path / "store", resumed_record(record, stored, SETTINGS))
    other = replace(SETTINGS, weight_precision="f16")
    with pytest.raises(RunMismatchError, match=r"settings\.weight_precision: 'bf16' in the store, 'f16' now"):
        StoreWriter(tmp_path / "store", resumed_record(record, stored, other))


def test_a_run_whose_record_lacks_special_tokens_goes_on(record: RunRecord, tmp_path: Path) -> None:
    assert record.special_token_ids
    model = {name: value for name, value in record.model.items() if name != "special_token_ids"}
    older = traced_record(replace(record, model=model), engine(0.25), "auto")
    first = StoreWriter(tmp_path / "store", older)
    first._write_run_record()
    stored = stored_record(first.storage, "run")
    assert stored is not None
    assert stored.special_token_ids is None
    now = StoreWriter(tmp_path / "store", resumed_record(record, stored, SETTINGS))
    assert now.record.special_token_ids is None
    assert now.record.sha256() == stored.sha256()


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"prompt_only": True}, r"settings\.prompt_only: None in the store, True now"),
        ({"skip_positions": 1}, r"settings\.skip_positions: None in the store, 1 now"),
        ({"skip_special": True}, r"settings\.skip_special: None in the store, True now"),
    ],
)
def test_filters_stand_in_the_record_where_there_are_any_and_identify_the_run(
    record: RunRecord, tmp_path: Path, filters: dict[str, Any], says: str
) -> None:
    assert not {"prompt_only", "skip_positions", "skip_special"} & record.settings.keys()
    other = planned(replace(SETTINGS, **filters))
    assert {name: other.settings[name] for name in filters} == filters
    assert other.corpus == record.corpus, "the cut goes by all tokens"
    first = StoreWriter(tmp_path / "store", traced_record(record, engine(0.25), "auto"))
    first._write_run_record()
    stored = stored_record(first.storage, "run")
    assert stored is not None
    with pytest.raises(RunMismatchError, match=says):
        StoreWriter(tmp_path / "store", resumed_record(other, stored, SETTINGS))


def test_a_run_without_special_tokens_is_another_where_others_are_special(record: RunRecord) -> None:
    more = {**record.model, "special_token_ids": [*record.model["special_token_ids"], 9]}
    assert replace(record, model=more).sha256() == record.sha256()
    filtered = planned(replace(SETTINGS, skip_special=True))
    with pytest.raises(RunMismatchError, match=r"model\.special_token_ids"):
        replace(filtered, model=more).require_same(filtered)


def test_the_record_names_the_model_by_its_folder_and_the_choice_of_texts_first(record: RunRecord) -> None:
    read = json.loads(record.to_json())
    assert read["model"]["id"] == MODEL.name
    assert read["provenance"]["model_source"] == str(MODEL)
    assert next(iter(read["corpus"])) == "selection"
    assert read["corpus"]["texts"] == {"eng_Latn": 5, "swh_Latn": 5}
    assert read["settings"]["engine"]["max_model_len"] == 1024
