"""The mask that a report is given, told in words."""

from __future__ import annotations

import pytest

from moetrace.analytics.report.mask_input import mask_command, mask_facts
from tests.support.masks import mask_of


@pytest.mark.parametrize("strategy", ["rise", "gap", "top-k", "top-p"])
def test_the_command_for_an_older_mask_asks_for_what_there_was(strategy: str) -> None:
    """Of when no count was asked for."""
    mask = mask_of([(1, 0)], moe_layers=[1], num_experts=8, top_k=2)
    mask["strategy"] = {"name": strategy, "target": "swh_Latn", "parameters": {"alpha": 0.5}}
    command = mask_command(mask)
    assert command.endswith(f"--alpha 0.5{' --min-count 0' if strategy != 'top-p' else ''} -o mask.json")


@pytest.mark.parametrize(("min_count", "words"), [(0, "--min-count 0 "), (45, "--min-count 45 "), (None, "")])
def test_the_command_asks_for_the_count_that_was_asked_for(min_count: int | None, words: str) -> None:
    """None where counts are nominal: then the rule is not applied the next time either."""
    mask = mask_of([(1, 0)], moe_layers=[1], num_experts=8, top_k=2)
    parameters = {"min_count": min_count, "min_count_note": "not applied", "shrinkage": 0.5}
    mask["strategy"] = {"name": "rise", "target": None, "parameters": parameters}
    assert mask_command(mask) == f"moetrace export rise STORE --run run {words}--shrinkage 0.5 -o mask.json"
    assert ("Min count note", "not applied") in mask_facts(mask)


def test_a_load_is_told_as_far_as_it_is_known() -> None:
    mask = mask_of([(1, 0)], moe_layers=[1], num_experts=8, top_k=2)
    mask["strategy"]["parameters"] = {"load": {"asked": 0.25, "got": 0.2, "layers": [{"layer": 1}]}, "seed": 3}
    mask["summary"]["load"] = {"target": 0.21, "others": None}
    facts = mask_facts(mask)
    assert ("Load of the target", "21.0%") in facts
    assert ("Load asked for", "25.0%") in facts
    assert not [fact for fact in facts if fact[0] in {"Load of the other languages", "Load"}]
