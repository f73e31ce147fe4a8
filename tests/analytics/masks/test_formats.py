"""The files a mask is exported as: each from the mask alone, and as the tool that reads it expects."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from moetrace.analytics.database.connection import connect
from moetrace.analytics.masks.expert_parameters import EXPERT_PARAMETERS, UnknownFamilyError
from moetrace.analytics.masks.formats import FORMATS, easysteer_of_intervention
from moetrace.analytics.masks.mask import build_mask
from moetrace.analytics.selection import rise, top_p
from moetrace.analytics.selection.selection import SelectedExpert, Selection
from moetrace.store.intervention import InterventionError, intervention_of
from moetrace.store.mask import MaskError, mask_text, read_mask
from tests.support.families import COMMON, TINY
from tests.support.published import import_files
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.format.records import RunRecord
    from moetrace.store.intervention import Intervention

CREATED = "2025-01-01T00:00:00+00:00"
RECORD = make_record()


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    opened = connect(write_world(tmp_path_factory.mktemp("store"), make_world(1, RECORD)))
    return build_mask(rise(opened, "run", ["swh_Latn"], budget=6, min_count=0), RECORD, CREATED)


def mask_of(*experts: SelectedExpert, record: RunRecord = RECORD, strategy: str = "top-k") -> dict[str, Any]:
    return build_mask(Selection(strategy, "run", (), (), 0, {}, experts, {}), record, CREATED)


@pytest.mark.parametrize("name", FORMATS)
def test_a_mask_that_was_written_and_read_makes_the_same_file(name: str, mask: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mask.json").write_text(mask_text(mask))
    assert FORMATS[name](read_mask(tmp_path / "mask.json")) == FORMATS[name](mask)


def test_the_rise_format_is_what_rise_training_reads(mask: dict[str, Any]) -> None:
    document = json.loads(FORMATS["rise"](mask))
    assert document["method"] == "RISE"
    assert document["model_type"] == "qwen3_moe"
    assert document["target_language"] == "swh_Latn"
    assert document["zone_boundaries"] == {"shallow": [1, 1], "middle": [2, 2], "deep": [5, 5]}
    assert document["zone_counts"] == {"shallow": 2, "middle": 1, "deep": 3}
    assert document["config"]["num_experts"] == 6
    assert document["config"]["languages"] == ["deu_Latn", "eng_Latn", "swh_Latn"]
    assert len(document["experts"]) == 6
    for item in document["experts"]:
        assert list(item) == ["layer", "expert", "zone", "score", "specificity", "overlap"]
        assert all(isinstance(item[name], float) for name in ("score", "specificity", "overlap"))


def test_an_empty_zone_has_no_boundaries_in_the_rise_format(tmp_path: Path) -> None:
    record = make_record(moe_layers=[4])
    opened = connect(write_world(tmp_path, make_world(2, record)))
    made = build_mask(rise(opened, "run", ["swh_Latn"], budget=3, min_count=0), record, CREATED)
    document = json.loads(FORMATS["rise"](made))
    assert document["zone_boundaries"] == {"shallow": None, "middle": [4, 4], "deep": None}
    assert document["zone_counts"] == {"shallow": 0, "middle": 3, "deep": 0}


def test_the_rise_format_refuses_other_strategies_and_older_masks(mask: dict[str, Any]) -> None:
    with pytest.raises(MaskError, match="holds a rise selection, not top-k"):
        FORMATS["rise"](mask_of(SelectedExpert(1, 2, "specific")))
    older = json.loads(json.dumps(mask))
    del older["strategy"]["parameters"]["zones"], older["model"]["family"]
    for item in older["experts"]:
        del item["overlap"]
    assert mask_text(older)
    with pytest.raises(MaskError, match="needs zones, overlap, which this mask lacks; export it from its store again"):
        FORMATS["rise"](older)


def test_the_esft_format_has_every_layer_and_experts_by_rank() -> None:
    made = mask_of(
        SelectedExpert(1, 3, "shared", score=0.9),
        SelectedExpert(1, 0, "specific", score=0.1),
        SelectedExpert(1, 7, "specific", score=0.3),
        SelectedExpert(1, 5, "specific", score=0.3),
        SelectedExpert(5, 6, "specific"),
        SelectedExpert(5, 2, "specific", score=-1.0),
    )
    assert json.loads(FORMATS["esft"](made)) == {
        "experts": {"1": [5, 7, 0, 3], "2": [], "5": [2, 6]},
        "shared_experts": False,
        "non_expert_modules": False,
    }


@pytest.mark.parametrize("task", ["intent", "summary"])
def test_the_published_configs_of_esft_come_back(task: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "esft-trace"
    import_files("esft", tmp_path, *(f"{name}={folder / name}.tar.xz" for name in ("intent", "summary")))
    record = make_record(moe_layers=range(1, 27), num_experts=64, top_k=6)
    made = build_mask(top_p(connect(tmp_path), "run", [task], score="token", p=0.2), record, CREATED)
    published = json.loads((folder / f"{task}.config.json").read_text())
    assert len(published["experts"]) == 26
    assert json.loads(FORMATS["esft"](made)) == published


def test_the_target_experts_format_has_the_layers_that_have_experts() -> None:
    made = mask_of(*(SelectedExpert(layer, expert, "specific") for layer, expert in ((5, 6), (1, 7), (5, 0))))
    text = FORMATS["target-experts"](made)
    assert list(json.loads(text).items()) == [("1", [7]), ("5", [0, 6])]


def unfrozen(text: str) -> dict[str, list[int]]:
    """What axolotl makes of its `unfrozen_parameters`: of each name the rows that train."""
    found: dict[str, list[int]] = {}
    for entry in yaml.safe_load(text)["unfrozen_parameters"]:
        # Its grammar: a regular expression in which a dot is a dot, then, in brackets, one index or start:end.
        pattern, index = re.fullmatch(r"(.+)\[([0-9]+)\]", entry).groups()
        assert pattern[0] == "^"
        assert pattern[-1] == "$"
        found.setdefault(pattern[1:-1], []).append(int(index))
    return found


def test_the_axolotl_format_names_each_experts_part_of_each_parameter() -> None:
    made = mask_of(*(SelectedExpert(layer, expert, "specific") for layer, expert in ((5, 6), (1, 7), (5, 0))))
    text = FORMATS["axolotl"](made)
    assert "  - ^model.layers.1.mlp.experts.gate_up_proj$[7]\n" in text
    assert unfrozen(text) == {
        f"model.layers.{layer}.mlp.experts.{name}": experts
        for layer, experts in ((1, [7]), (5, [0, 6]))
        for name in ("gate_up_proj", "down_proj")
    }
    assert yaml.safe_load(text)["weight_decay"] == 0


@pytest.mark.parametrize(
    ("family", "message"),
    [(None, "family is not known"), ("new_moe", "of family 'new_moe' are not known; known: deepseek_v2, ")],
)
def test_the_axolotl_format_refuses_a_family_it_does_not_know(family: str | None, message: str) -> None:
    made = mask_of(SelectedExpert(1, 7, "specific"))
    made["model"]["family"] = family
    with pytest.raises(UnknownFamilyError, match=message):
        FORMATS["axolotl"](made)
    del made["model"]["family"]
    with pytest.raises(UnknownFamilyError, match="family is not known"):
        FORMATS["axolotl"](made)


def test_the_axolotl_format_refuses_a_mask_without_experts() -> None:
    with pytest.raises(MaskError, match="has no experts"):
        FORMATS["axolotl"](mask_of())


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[str, dict[str, list[int]]]]:
    """The family and the parameters' shapes of every tiny model, as transformers builds it."""
    import torch
    import transformers

    found = {}
    for name, tiny in TINY.items():
        config = getattr(transformers, tiny.config)(**COMMON | tiny.options)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        shapes = {path: list(parameter.shape) for path, parameter in model.named_parameters()}
        found[name] = (model.config.model_type, shapes)
    return found


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_named_for_axolotl_is_one_of_the_experts(
    name: str, models: dict[str, tuple[str, dict[str, list[int]]]]
) -> None:
    family, shapes = models[name]
    tiny = TINY[name]
    experts = next(tiny.options[key] for key in tiny.options if re.fullmatch(".*num.*experts|n_routed_experts", key))
    record = make_record(moe_layers=tiny.moe_layers, num_experts=experts)
    record.model["family"] = family
    named = unfrozen(
        FORMATS["axolotl"](
            mask_of(*(SelectedExpert(layer, experts - 1, "specific") for layer in tiny.moe_layers), record=record)
        )
    )
    assert {shapes[parameter][0] for parameter in named} == {experts}
    # All of them: whatever else lies in a module of routed experts would stay frozen.
    modules = {parameter.rpartition(".")[0] for parameter in named}
    assert set(named) == {parameter for parameter in shapes if parameter.rpartition(".")[0] in modules}
    assert len(modules) == len(tiny.moe_layers)


def test_every_family_in_the_table_is_compared_with_its_model(
    models: dict[str, tuple[str, dict[str, list[int]]]],
) -> None:
    assert set(EXPERT_PARAMETERS) == {family for family, _ in models.values()}


def test_the_easysteer_format_promotes_a_masks_experts() -> None:
    made = mask_of(*(SelectedExpert(layer, expert, "specific") for layer, expert in ((5, 6), (1, 7), (5, 0))))
    assert json.loads(FORMATS["easysteer"](made)) == {
        "layer_configs": {
            "1": {"mode": "activate", "activate_ids": [7], "deactivate_ids": []},
            "5": {"mode": "activate", "activate_ids": [0, 6], "deactivate_ids": []},
        }
    }


def test_an_intervention_goes_to_easysteer_where_it_forces_experts() -> None:
    def made(*steps: dict[str, Any], **more: Any) -> Intervention:
        value = {"format": "moetrace-intervention", "version": 1, "name": "x", "steps": list(steps), **more}
        return intervention_of(value, "x")

    up = {"mode": "promote", "experts": [{"layer": 5, "expert": 6}]}
    down = {"mode": "suppress", "experts": [{"layer": 5, "expert": 0}, {"layer": 1, "expert": 7}]}
    assert json.loads(easysteer_of_intervention(made(up, down)))["layer_configs"] == {
        "1": {"mode": "activate", "activate_ids": [], "deactivate_ids": [7]},
        "5": {"mode": "activate", "activate_ids": [6], "deactivate_ids": [0]},
    }
    with pytest.raises(InterventionError, match="no soft or scale"):
        easysteer_of_intervention(made({**up, "mode": "soft", "lambda": 1.0}))
    with pytest.raises(InterventionError, match="make its scope all"):
        easysteer_of_intervention(made(up, scope="prompt"))
