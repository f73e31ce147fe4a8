"""What a run record says of a model: what it is, not where it lies."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from moetrace.tracer.bundled import MODEL
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.model.record import model_id, model_record
from moetrace.tracer.model.tokenizer import load_tokenizer, special_token_ids

if TYPE_CHECKING:
    from pathlib import Path


def test_a_model_is_named_by_its_folder_or_its_hub_id(tmp_path: Path) -> None:
    assert model_id(f"{MODEL}/") == MODEL.name
    assert model_id("Qwen/Qwen3-30B-A3B") == "Qwen/Qwen3-30B-A3B"
    (tmp_path / "here").mkdir()
    assert model_id(str(tmp_path / "here" / ".." / "here")) == "here"


def test_the_same_checkpoint_elsewhere_has_the_same_record(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / MODEL.name)
    here, there = (read_facts(str(folder)) for folder in (MODEL, tmp_path / MODEL.name))
    assert model_record(here, load_tokenizer(here)) == model_record(there, load_tokenizer(there))


def test_parameters_are_counted_where_the_checkpoint_is_at_hand_and_a_tokenizer_may_be_unknown() -> None:
    record = model_record(read_facts(str(MODEL)), None)
    assert record["tokenizer_sha256"] is None
    assert "special_token_ids" not in record
    assert record["parameters"] == 4_622_976
    assert record["parameters_per_expert"] == 3 * 128 * 32


def test_special_tokens_are_those_with_a_name_and_those_that_are_marked() -> None:
    from tokenizers import AddedToken

    facts = read_facts(str(MODEL))
    tokenizer = load_tokenizer(facts)
    named = model_record(facts, tokenizer)["special_token_ids"]
    assert tokenizer.eos_token_id in named
    assert named == sorted(set(tokenizer.all_special_ids))
    tokenizer.add_tokens([AddedToken("<|header|>", special=True), AddedToken("<word>", special=False)])
    header, word = tokenizer.convert_tokens_to_ids(["<|header|>", "<word>"])
    assert header not in tokenizer.all_special_ids
    assert special_token_ids(tokenizer) == [*named, header]
    assert word not in special_token_ids(tokenizer)
