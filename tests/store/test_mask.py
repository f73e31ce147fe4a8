"""The mask file: read back as it was written, and refused with the place where it is damaged or does not fit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from moetrace.analytics.masks.mask import build_mask
from moetrace.store.mask import MASK, MaskError, check_mask_fits, mask_targets, mask_text, read_mask
from tests.support.commands import failure
from tests.support.masks import mask_of
from tests.support.selections import CREATED, six_experts
from tests.support.stores import make_record

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.analytics.selection.selection import Selection

RECORD = make_record()


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    return six_experts(tmp_path_factory.mktemp("store"))


def test_a_written_mask_is_read_back_as_it_was(selection: Selection, tmp_path: Path) -> None:
    text = mask_text(build_mask(selection, RECORD, CREATED))
    (tmp_path / "mask.json").write_text(text)
    mask = read_mask(tmp_path / "mask.json")
    assert mask_text(mask) == text
    for read, item in zip(mask["experts"], selection.experts, strict=True):
        assert (read["layer"], read["expert"], read["zone"]) == (item.layer, item.expert, item.zone)
        assert read["score"] == pytest.approx(item.score, rel=1e-8)


def test_the_schema_is_a_schema_and_describes_every_part() -> None:
    schema = json.loads(MASK.schema.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["required"]) == set(schema["properties"])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 2, r"mask.json, \$.version: 1 was expected"),
        (["format"], "other", r"mask.json, \$.format: 'moetrace-mask' was expected"),
        (["experts", 3, "layer"], "five", r"mask.json, \$.experts\[3\].layer: 'five' is not of type 'integer'"),
        (["experts", 0, "role"], "odd", r"mask.json, \$.experts\[0\].role: 'odd' is not one of"),
        (["experts", 0, "colour"], 1, r"mask.json, \$.experts\[0\]: Additional properties are not allowed"),
        (["experts", 0, "layer"], 0, r"mask.json, \$.experts\[0\]: layer 0 is not one of the model's MoE layers"),
        (["experts", 5, "expert"], 8, r"mask.json, \$.experts\[5\]: expert 8, but a layer has 8 experts"),
        (["summary", "experts"], 7, r"mask.json, \$.summary.experts: says 7, the mask has 6"),
        (["summary", "pool"], 7, r"mask.json, \$.summary.pool: says 7, the mask has 24"),
        (
            ["summary", "load", "target"],
            1.5,
            r"mask.json, \$.summary.load.target: 1.5 is greater than the maximum of 1",
        ),
        (["summary", "load", "others"], -0.1, r"mask.json, \$.summary.load.others: -0.1 is less than the minimum of 0"),
        (["summary", "load"], {"target": 0.5}, r"mask.json, \$.summary.load: 'others' is a required property"),
        (["summary", "load", "all"], 0.5, r"mask.json, \$.summary.load: Additional properties are not allowed"),
        (["experts", 2, "count"], -1, r"mask.json, \$.experts\[2\].count: -1 is less than the minimum of 0"),
        (["experts", 2, "count"], 1.0, r"mask.json, \$.experts\[2\].count: 1.0 is not of type 'integer', 'null'"),
        (["experts", 2, "count"], True, r"mask.json, \$.experts\[2\].count: True is not of type"),
        (["experts", 2, "count"], 2**70, r"mask.json, \$.experts\[2\].count: a number above"),
        (["provenance", "run_sha256"], "abc", r"mask.json, \$.provenance.run_sha256: 'abc' does not match"),
    ],
)
def test_a_mask_that_is_wrong_is_refused_with_the_place(
    path: list[Any], value: object, message: str, selection: Selection, tmp_path: Path
) -> None:
    mask = json.loads(mask_text(build_mask(selection, RECORD, CREATED)))
    part = mask
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / "mask.json").write_text(json.dumps(mask))
    with pytest.raises(MaskError, match=message) as raised:
        read_mask(tmp_path / "mask.json")
    assert "\n" not in str(raised.value)


def test_counts_and_loads_that_nobody_knows_are_null_and_older_masks_have_none(
    selection: Selection, tmp_path: Path
) -> None:
    made = json.loads(mask_text(build_mask(selection, RECORD, CREATED)))
    unknown, older = json.loads(json.dumps(made)), json.loads(json.dumps(made))
    unknown["summary"]["load"] = {"target": None, "others": None}
    del older["summary"]["load"]
    for item in unknown["experts"]:
        item["count"] = None
    for item in older["experts"]:
        del item["count"]
    for mask in (made, unknown, older):
        (tmp_path / "mask.json").write_text(json.dumps(mask))
        assert read_mask(tmp_path / "mask.json") == mask


def test_the_targets_of_a_mask_are_a_list() -> None:
    made = mask_of([(1, 0)], moe_layers=[1], num_experts=8, top_k=2)
    for target, languages in ((None, []), ("a", ["a"]), (["a", "b"], ["a", "b"])):
        made["strategy"]["target"] = target
        assert mask_targets(made) == languages


def test_a_mask_file_without_experts_is_refused(selection: Selection, tmp_path: Path) -> None:
    empty = mask_text(build_mask(replace(selection, experts=()), RECORD, CREATED))
    (tmp_path / "mask.json").write_text(empty, encoding="utf-8")
    with pytest.raises(MaskError, match=r"mask.json, \$.experts: the mask has no experts"):
        read_mask(tmp_path / "mask.json")


def test_an_expert_that_stands_twice_is_refused(selection: Selection, tmp_path: Path) -> None:
    mask = json.loads(mask_text(build_mask(selection, RECORD, CREATED)))
    mask["experts"][1] = mask["experts"][0]
    (tmp_path / "mask.json").write_text(json.dumps(mask))
    with pytest.raises(MaskError, match=r"\$.experts\[1\]: layer 1, expert \d stands twice"):
        read_mask(tmp_path / "mask.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": "moetrace-mask",\n "version": }', "mask.json, line 2, column 13: not valid JSON"),
        (b"", "mask.json, line 1, column 1: not valid JSON"),
        (b'{"score": NaN}', "mask.json: not valid JSON .NaN is not a number"),
        (b'{"score": 1e999}', "mask.json: 1e999 is no number that a float can hold"),
        (b'{"score": 1, "score": 2}', "mask.json: 'score' stands twice in an object"),
        (b"9" * 5000, "mask.json: not valid JSON .Exceeds the limit"),
        (b"[" * 70 + b"]" * 70, "mask.json: objects and lists are nested deeper than 64"),
        (b"[" * 100_000, "mask.json: objects and lists are nested deeper than 64"),
        (b"[" * 6_000_000, "mask.json: cannot be read as a mask .it has more than the 5,242,880 bytes that are read"),
        (b"[1, 2]", r"mask.json, \$: \[1, 2\] is not of type 'object'"),
        (b"\xff\xfe", "mask.json: not UTF-8 text"),
        (None, "mask.json: cannot be read as a mask .No such file"),
    ],
)
def test_what_is_not_json_is_refused_with_the_place(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mask.json").write_bytes(content)
    with pytest.raises(MaskError, match=message):
        read_mask(tmp_path / "mask.json")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["model", "id"], "a\nb", r"\$.model.id: 'a\\nb' is no text of at most 4,096 printable characters"),
        (["model", "id"], "x" * (1 << 20), r"\$.model.id: 'xxx.* is no text of at most"),
        (["model", "id"], "\ud800", "holds a text that is no Unicode"),
        (["model", "id"], "\u202egpj", r"\$.model.id: '\\u202egpj' is no text"),
        (["model", "revision"], "x" * 300, r"\$.model.revision: .* is too long"),
        (["model", "num_experts"], 10**4000, r"\$.model.num_experts: a number above"),
        (["model", "num_experts"], 10**9, r"\$.model.num_experts: 1000000000 is greater than the maximum of 65536"),
        (["model", "moe_layers"], [1, "a"] * 50_000, r"\$.model.moe_layers: 100,000 items, more than 4,096"),
        (["strategy", "parameters", "a\x1b[2J"], 1, r"\$.strategy.parameters: 'a\\x1b\[2J' is no text"),
        (
            ["strategy", "parameters"],
            {str(n): n for n in range(300)},
            r"\$.strategy.parameters: .* too many properties",
        ),
        (["strategy", "target"], ["a", "b\n"], r"\$.strategy.target\[1\]: 'b\\n' is no text"),
        (["experts", 0, "layer"], 1.0, r"\$.experts\[0\].layer: 1.0 is not of type 'integer'"),
        (["experts", 0, "layer"], -1, r"\$.experts\[0\].layer: -1 is less than the minimum of 0"),
        (["experts", 0, "layer"], True, r"\$.experts\[0\].layer: True is not of type 'integer'"),
        (["experts", 0, "expert"], 2**70, r"\$.experts\[0\].expert: a number above"),
        (["experts", 0, "score"], 10**400, r"\$.experts\[0\].score: a number above"),
        (["experts"], [1] * 1_000_000, r"\$.experts\[\d+\]: 1 is not of type 'object'"),
        (["provenance", "tokens"], 10**30, r"\$.provenance.tokens: a number above"),
        (["provenance", "created"], "2025-01-01T00:00" + "x" * 99, r"\$.provenance.created: .* is too long"),
    ],
)
def test_a_mask_of_a_stranger_is_refused_in_one_line_within_memory(
    path: list[Any], value: object, message: str, selection: Selection, tmp_path: Path
) -> None:
    mask = json.loads(mask_text(build_mask(selection, RECORD, CREATED)))
    part = mask
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / "mask.json").write_text(json.dumps(mask))
    with pytest.raises(MaskError, match=message) as raised:
        read_mask(tmp_path / "mask.json")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600


def test_a_mask_that_breaks_the_schema_is_not_written(selection: Selection) -> None:
    with pytest.raises(MaskError, match=r"this mask, \$.provenance.created: 'today' does not match"):
        mask_text(build_mask(selection, RECORD, "today"))


FITTING = {"config_sha256": "0" * 64, "moe_layers": [5, 1, 2], "num_experts": 8, "top_k": 2}


@pytest.mark.parametrize("known", [{}, {"config_sha256": None}])
def test_a_mask_fits_the_model_it_was_made_of(known: dict[str, None], selection: Selection) -> None:
    check_mask_fits(build_mask(selection, RECORD, CREATED), **{**FITTING, **known}, where="mask.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"config_sha256": "1" * 64},
            "synthetic with config digest 000000000000, this model.s config has digest 111111111111",
        ),
        ({"moe_layers": [1, 2, 3, 5]}, "MoE layers are 1-2, 5, this model's are 1-3, 5"),
        ({"num_experts": 16}, "with 8 experts in a layer, this model has 16"),
        ({"top_k": 4}, "with 2 experts chosen for each token .top-k., this model has 4"),
    ],
)
def test_a_mask_of_another_model_is_refused_with_the_difference(
    changed: dict[str, Any], message: str, selection: Selection
) -> None:
    with pytest.raises(MaskError, match=f"^mask.json: the mask is of .*{message}") as raised:
        check_mask_fits(build_mask(selection, RECORD, CREATED), **{**FITTING, **changed}, where="mask.json")
    assert "\n" not in str(raised.value)


def test_what_is_no_file_is_no_mask(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, why in ((tmp_path / "pipe", "not a regular file"), (tmp_path, "Is a directory")):
        with pytest.raises(MaskError, match=rf"cannot be read as a mask \({why}\)"):
            read_mask(place)


def test_a_mask_in_memory_is_checked_like_one_in_a_file(selection: Selection) -> None:
    mask = build_mask(selection, RECORD, CREATED)
    mask["experts"][0]["score"] = float("nan")
    with pytest.raises(MaskError, match=r"this mask, \$.experts\[0\].score: nan is not a number"):
        mask_text(mask)


def test_the_query_of_a_mask_may_have_lines(tmp_path: Path) -> None:
    mask = mask_of([(1, 0)], moe_layers=[1], num_experts=8, top_k=2)
    mask["strategy"] = {
        "name": "sql",
        "target": None,
        "parameters": {"query": "select\n\tlayer, expert -- é\r\n" * 999},
    }
    (tmp_path / "mask.json").write_text(mask_text(mask))
    assert read_mask(tmp_path / "mask.json") == mask
    for query in ("select \x1b[2J", "x" * (1 << 16) + "x"):
        mask["strategy"]["parameters"]["query"] = query
        with pytest.raises(MaskError, match=r"\$.strategy.parameters.query: .* is no text of at most 65,536"):
            mask_text(mask)


@pytest.mark.parametrize(
    "words", ["export convert MASK --format esft", "export random STORE --like MASK", "report STORE --mask MASK"]
)
def test_commands_refuse_a_mask_of_a_stranger_in_one_line(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"STORE": tmp_path / "store", "MASK": tmp_path / "mask.json"}
    six_experts(places["STORE"])
    places["MASK"].write_text('{"a":' * 100_000)
    refused = failure(capsys, *(places.get(word, word) for word in words.split()))
    assert refused == f"{places['MASK']}: objects and lists are nested deeper than 64"


def test_all_experts_of_the_largest_models_fit_in_a_mask(tmp_path: Path) -> None:
    chosen = [(layer, expert) for layer in range(60) for expert in range(384)]
    mask = mask_of(chosen, moe_layers=range(60), num_experts=384, top_k=8)
    for number, item in enumerate(mask["experts"]):
        item |= {
            "score": number / 7,
            "zone": "middle",
            "count": 10**9 - number,
            "specificity": number / 3,
            "overlap": 0.7,
        }
    (tmp_path / "mask.json").write_text(mask_text(mask))
    assert len(read_mask(tmp_path / "mask.json")["experts"]) == 23040
