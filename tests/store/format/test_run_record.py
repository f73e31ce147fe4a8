"""Every run record is made in one place, with the same keys in the same order, whoever makes it."""

from __future__ import annotations

import json

import pytest

from moetrace.store.format.run_record import MODEL, made_elsewhere, made_here, make_run_record, with_engine_facts


def test_parts_and_their_keys_stand_in_one_order() -> None:
    record = make_run_record(
        "run",
        model=dict.fromkeys(reversed(MODEL)),
        routing={"scoring": "softmax"},
        corpus={"shards": {}, "languages": [], "selection": {"sample": 3}},
        settings={"tables": ["usage"], "imported": "esft"},
        provenance=made_elsewhere(["a.json"]),
    )
    read = json.loads(record.to_json())
    assert list(read) == ["run", "model", "routing", "corpus", "settings", "provenance", "checksum"]
    assert list(read["model"]) == list(MODEL)
    assert list(read["corpus"]) == ["selection", "languages", "shards"]
    assert list(read["settings"]) == ["tables", "imported"], "settings stand as they are given"
    assert list(read["provenance"]) == ["sources", "moetrace", "created"]


def test_what_only_an_engine_knows_stands_at_the_end() -> None:
    record = make_run_record("run", model={"top_k": 2, "id": "m"}, routing={}, corpus={}, settings={}, provenance={})
    found = with_engine_facts(record, {"moe_layers": [1], "dtype": "bfloat16"}, {"weight_precision": "bf16"})
    assert list(found.model.items()) == [("id", "m"), ("top_k", 2), ("moe_layers", [1]), ("dtype", "bfloat16")]
    assert found.settings == {"weight_precision": "bf16"}
    assert "moe_layers" not in record.model


def test_a_key_that_no_record_has_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="layers: no part of the model of a run record"):
        make_run_record("run", model={"layers": 3}, routing={}, corpus={}, settings={}, provenance={})


def test_where_a_run_was_made_says_with_what_and_when() -> None:
    assert list(made_here("m", "c")) == ["model_source", "corpus_source", "moetrace", "python", "machine", "created"]
    assert made_here("m", "c")["model_source"] == "m"
    assert made_elsewhere(["a"])["sources"] == ["a"]
