"""The intervention's file: what it means, what is refused, and masks in its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import (
    InterventionError,
    check_intervention_fits,
    intervention_of,
    intervention_text,
    read_intervention,
)
from tests.support.masks import mask_of

if TYPE_CHECKING:
    from pathlib import Path

MODEL = {"id": "m", "revision": None, "config_sha256": None, "moe_layers": [1, 2], "num_experts": 8, "top_k": 2}


def cells(*numbers: tuple[int, int], **more: Any) -> list[dict[str, Any]]:
    return [{"layer": layer, "expert": expert, **more} for layer, expert in numbers]


def intervention(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"format": "moetrace-intervention", "version": 1, "name": "x", "steps": list(steps), **more}


def fits(*steps: dict[str, Any], groups: tuple[int, int] = (1, 1), **more: Any) -> None:
    facts = {"config_sha256": None, "moe_layers": [1, 2], "num_experts": 8, "top_k": 2}
    check_intervention_fits(intervention_of(intervention(*steps), "x.json"), groups=groups, **{**facts, **more})


def test_shifts_add_up_and_forces_stand() -> None:
    found = intervention_of(
        intervention(
            {"mode": "soft", "lambda": 0.5, "experts": cells((1, 3)) + cells((2, 0), strength=2)},
            {"mode": "soft", "lambda": 0.25, "experts": cells((1, 3))},
            {"mode": "scale", "lambda": -1, "experts": cells((1, 3), strength=0.5)},
            {"mode": "promote", "experts": cells((1, 3))},
            {"mode": "suppress", "experts": cells((2, 7))},
            scope="prompt",
        ),
        "x.json",
    )
    assert found.soft == {(1, 3): 0.75, (2, 0): 1.0}
    assert found.scale == {(1, 3): -0.5}
    assert found.forced == {(1, 3): 1, (2, 7): -1}
    assert found.scope == "prompt"
    assert found.cells == {(1, 3), (2, 0), (2, 7)}


def test_what_does_nothing_has_no_experts_and_one_digest() -> None:
    nothing = intervention_of(intervention(), "x.json")
    zero = intervention_of(
        intervention({"mode": "soft", "lambda": 0, "experts": cells((1, 1))}, scope="prompt", name="y"), "y.json"
    )
    assert not nothing.cells | zero.cells
    assert nothing.digest == zero.digest
    promoted = intervention({"mode": "promote", "experts": cells((1, 1))})
    digests = {intervention_of({**promoted, "scope": scope}, "x").digest for scope in ("all", "prompt", "generated")}
    assert len(digests | {nothing.digest}) == 4
    assert intervention_of({**promoted, "name": "z"}, "x").digest in digests


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = intervention({"mode": "soft", "lambda": 0.3, "experts": cells((1, 1))}, model=MODEL)
    file = tmp_path / "x.json"
    file.write_text(intervention_text(value), encoding="utf-8")
    assert json.loads(file.read_text()) == value
    assert read_intervention(file).soft == {(1, 1): 0.3}
    assert read_intervention(file, name="other", scope="prompt").name == "other"
    assert read_intervention(file, layers=[1]).cells == {(1, 1)}
    with pytest.raises(InterventionError, match=r"x.json: no expert of it is in layers 2$"):
        read_intervention(file, layers=[2])
    with pytest.raises(InterventionError, match=r"x.json: an intervention says itself what is done"):
        read_intervention(file, mode="soft")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (intervention({"mode": "soft", "experts": []}), r"\$.steps\[0\]: soft needs a lambda"),
        (intervention({"mode": "promote", "lambda": 1, "experts": []}), r"\$.steps\[0\]: promote has no lambda"),
        (
            intervention({"mode": "promote", "experts": cells((1, 1), strength=2)}),
            r"\$.steps\[0\].experts\[0\]: promote has no strength",
        ),
        (
            intervention({"mode": "promote", "experts": cells((1, 1), (1, 1))}),
            r"\$.steps\[0\].experts\[1\]: layer 1, expert 1 stands twice",
        ),
        (
            intervention({"mode": "promote", "experts": cells((1, 1))}, {"mode": "suppress", "experts": cells((1, 1))}),
            r"\$.steps\[1\].experts\[0\]: layer 1, expert 1 is both promoted and suppressed",
        ),
        (intervention({"mode": "turn", "experts": []}), r"\$.steps\[0\].mode: 'turn' is not one of"),
        (intervention(name="a b"), r"\$.name: 'a b' does not match"),
        (intervention(scope="some"), r"\$.scope: 'some' is not one of"),
        (intervention({"mode": "soft", "lambda": float("nan"), "experts": []}), r"lambda: nan is not a number"),
        (intervention({"mode": "soft", "lambda": 1e9, "experts": []}), r"lambda: 1000000000.0 is greater than"),
        (intervention({"mode": "promote", "experts": cells((1, -1))}), r"expert: -1 is less than"),
        (intervention({"mode": "promote", "experts": cells((1.0, 1))}), r"layer: 1.0 is not of type 'integer'"),
        ([], r"\$: \[\] is not of type 'object'"),
    ],
    ids=str,
)
def test_what_is_no_intervention_is_refused_in_a_line(value: Any, said: str) -> None:
    with pytest.raises(InterventionError, match=f"^x.json, .*{said}") as raised:
        intervention_of(value, "x.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"format": "moetrace-intervention", "steps": NaN}', "NaN is not a number"),
        (b'{"name": "x", "name": "y"}', "'name' stands twice"),
        (b"\xff", "not UTF-8"),
        (b"", "not valid JSON"),
        (b"[" * 100 + b"]" * 100, "nested deeper than"),
    ],
)
def test_a_strangers_file_is_data(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(MoetraceError, match=said) as raised:
        read_intervention(file)
    assert str(raised.value).startswith(str(file))
    with pytest.raises(InterventionError, match="cannot be read as an intervention"):
        read_intervention(tmp_path)


def test_what_a_layer_cannot_do_is_refused() -> None:
    fits({"mode": "promote", "experts": cells((1, 0), (1, 1))})
    with pytest.raises(InterventionError, match="layer 1: 3 experts are promoted, the model chooses 2 for each token"):
        fits({"mode": "promote", "experts": cells((1, 0), (1, 1), (1, 2))})
    with pytest.raises(InterventionError, match="layer 3 is none of the model's MoE layers, which are 1-2"):
        fits({"mode": "promote", "experts": cells((3, 0))})
    with pytest.raises(InterventionError, match="layer 2, expert 8: a layer has 8 experts"):
        fits({"mode": "promote", "experts": cells((2, 8))})
    fits({"mode": "suppress", "experts": cells(*((1, expert) for expert in range(6)))})
    with pytest.raises(InterventionError, match="with 7 experts suppressed there may be fewer than the 2 that"):
        fits({"mode": "suppress", "experts": cells(*((1, expert) for expert in range(7)))})


def test_groups_limit_what_can_be_forced() -> None:
    groups = (4, 2)  # of two experts
    fits({"mode": "promote", "experts": cells((1, 0), (1, 7))}, groups=groups)
    with pytest.raises(InterventionError, match="the promoted experts are of 3 groups, the model chooses from 2"):
        fits({"mode": "promote", "experts": cells((1, 0), (1, 2), (1, 4))}, groups=groups, top_k=4)
    fits({"mode": "suppress", "experts": cells((1, 0), (1, 2))}, groups=groups)
    with pytest.raises(InterventionError, match="there may be fewer than"):
        fits({"mode": "suppress", "experts": cells((1, 0), (1, 2), (1, 3))}, groups=groups)
    # A promoted expert's group is kept, so that only one other counts.
    promoted = {"mode": "promote", "experts": cells((1, 6))}
    fits({"mode": "suppress", "experts": cells((1, 0), (1, 2), (1, 3))}, promoted, groups=groups)


def test_an_intervention_of_another_model_is_refused() -> None:
    step = {"mode": "promote", "experts": cells((1, 0))}
    found = intervention_of(intervention(step, model={**MODEL, "config_sha256": "a" * 64}), "x.json")
    facts = {"moe_layers": [1, 2], "num_experts": 8, "top_k": 2}
    check_intervention_fits(found, config_sha256="a" * 64, **facts)
    with pytest.raises(InterventionError, match="intervention x: it is of m with config digest aaaaaaaaaaaa, this"):
        check_intervention_fits(found, config_sha256="b" * 64, **facts)
    with pytest.raises(InterventionError, match="a model with 8 experts in a layer, this model has 16"):
        check_intervention_fits(found, config_sha256=None, **{**facts, "num_experts": 16})


def test_a_mask_is_steered_by_a_mode(tmp_path: Path) -> None:
    mask = mask_of([(1, 0), (1, 3), (2, 5)], moe_layers=[1, 2], num_experts=8, top_k=2)
    file = tmp_path / "swh rise.json"
    file.write_text(json.dumps(mask), encoding="utf-8")
    found = read_intervention(file, mode="promote")
    assert found.forced == {(1, 0): 1, (1, 3): 1, (2, 5): 1}
    assert (found.name, found.scope, found.model) == ("swh-rise", "all", mask["model"])
    soft = read_intervention(file, mode="soft", strength=0.5, scope="generated", layers=[2])
    assert (soft.soft, soft.scope) == ({(2, 5): 0.5}, "generated")
    for arguments, said in (
        ({}, "a mask says which experts, not what is done to them; give a mode"),
        ({"mode": "soft"}, "soft needs a lambda"),
        ({"mode": "suppress", "strength": 1.0}, "suppress has no lambda"),
    ):
        with pytest.raises(InterventionError, match=said):
            read_intervention(file, **arguments)
