"""Each family's tiny checkpoint through the traced engine and through transformers; docs/families.md has the results.

MOETRACE_WRITE_RESULTS=1 writes them to tests/results/families.json; else how each run ended must be what stands there.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.model.families import FAMILIES, RoutingRule
from tests.results.make_table import RESULTS, table
from tests.support.checkpoints import make_checkpoint
from tests.support.families import TINY
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.warm import WarmProcess

RUNS = [(name, dtype) for name, tiny in TINY.items() for dtype in tiny.dtypes]
AS_IS = [name for name, tiny in TINY.items() if tiny.as_is]
FILE = RESULTS / "families.json"
TOLERANCE = 1e-5
NOISE_MARGIN = 0.04  # of the expert sets, of some hundred: bfloat16 rounds otherwise in another order of sums
# What vLLM refuses on processors that lack what its kernel needs; oneDNN uses no more than ONEDNN_MAX_CPU_ISA says.
NEED_AMX = {("qwen3_moe-fp8", "bfloat16")}
NEED_BFLOAT16_UNITS = {("qwen3_next", "bfloat16")}
NOT_STEERED = {"hunyuan_v1_moe": "vLLM runs this family by transformers' code, whose router cannot be steered"}
SAME = "as transformers"
SAME_TO_ROUNDING = "as transformers, to rounding"
REFUSED = "refused"
DIFFERENT = "different"
WRITE = bool(os.environ.get("MOETRACE_WRITE_RESULTS"))


@pytest.fixture(scope="module")
def results(warm: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Every run's comparison; of a run that did not end well what it said."""
    out = tmp_path_factory.mktemp("families")
    names = [f"{name}:{dtype}" for name, dtype in RUNS] + [f"{name}:float32:as-is" for name in AS_IS]
    runs = warm.run_all("tests.support.family_run", [(out, name) for name in names])
    found = {
        tuple(name.split(":", 1)): {"crashed": run.stderr[-4000:]}
        if run.status
        else json.loads((out / f"{name.replace(':', '-')}.json").read_text())
        for name, run in zip(names, runs, strict=True)
    }
    if WRITE:
        rows = {
            name if dtype == "float32" else f"{name} ({dtype})": row(name, result)
            for name, dtype in RUNS
            for result in [found[name, dtype]]
        }
        FILE.write_text(json.dumps(rows, indent=1) + "\n")
    return found


def status(result: dict[str, Any]) -> str:
    """What a run's numbers amount to."""
    if result["error"]:
        return REFUSED
    near = result["weight_error"] <= TOLERANCE and result["profile_error"] <= TOLERANCE
    if result["dtype"] == "float32":
        return SAME if result["sets_equal"] == 1.0 and near else DIFFERENT
    return SAME_TO_ROUNDING if result["sets_equal"] >= result["noise"] - NOISE_MARGIN else DIFFERENT


def row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """A row of the table in docs/families.md."""
    columns = ("sets_equal", "noise", "weight_error", "profile_error")
    return {"status": status(result), **{column: result[column] for column in columns}, "note": TINY[name].note}


def processor_lacks(run: tuple[str, str]) -> bool:
    """Tell whether this processor cannot do what a run needs."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if run in NEED_BFLOAT16_UNITS:
        return bool(os.environ.get("ONEDNN_MAX_CPU_ISA")) or not flags & {"amx_bf16", "avx512_bf16"}
    return run in NEED_AMX and "amx_bf16" not in flags


@pytest.mark.engine
@pytest.mark.parametrize(("name", "dtype"), RUNS, ids=lambda value: value)
def test_each_family_is_routed_as_in_transformers_or_refused_in_one_line(
    name: str, dtype: str, results: dict[tuple[str, str], dict[str, Any]]
) -> None:
    result = results[name, dtype]
    assert "crashed" not in result, result["crashed"]
    refusal = TINY[name].refused if dtype == "float32" else ""
    if processor_lacks((name, dtype)) and result["error"]:  # some that lack it run it all the same, more slowly
        refusal = "vLLM"
    if refusal:
        assert result["error"], "it runs now: say so in tests/support/families.py"
        assert re.search(refusal, result["error"]), result["error"]
        assert "\n" not in result["error"]
    else:
        assert status(result) in {SAME, SAME_TO_ROUNDING}, result
        assert tuple(result["moe_layers"]) == TINY[name].moe_layers
        known = json.loads(FILE.read_text())[name if dtype == "float32" else f"{name} ({dtype})"]
        assert status(result) == known["status"]


@pytest.mark.engine
@pytest.mark.parametrize(("name", "dtype"), RUNS, ids=lambda value: value)
def test_each_family_is_steered_by_the_formulas_or_refused_in_one_line(
    name: str, dtype: str, results: dict[tuple[str, str], dict[str, Any]]
) -> None:
    found = results[name, dtype].get("steering")
    if found is None:
        assert results[name, dtype]["error"], "it was traced, and not steered"
        return
    if name in NOT_STEERED:
        assert found["error"] == NOT_STEERED[name]
        return
    assert found["error"] is None
    assert found["rows"] >= 100
    assert found["as_before"]
    assert (found["sets_equal"], found["promoted"], found["suppressed"]) == (1.0, 1.0, 0.0), found
    rounding = 1e-4 if dtype == "float32" else 2**-7
    assert found["weight_error"] is None or found["weight_error"] < rounding


@pytest.mark.engine
@pytest.mark.parametrize("name", AS_IS)
def test_what_is_set_right_on_a_cpu_is_refused_where_it_is_not(
    name: str, results: dict[tuple[str, str], dict[str, Any]]
) -> None:
    result = results[name, "float32:as-is"]
    assert "crashed" not in result, result["crashed"]
    error = result["error"]
    assert error, "vLLM does it right now: take it out of tracer/worker/cpu_fixes.py"
    assert re.search(TINY[name].as_is, error), error


def test_the_documentation_has_the_table_of_families() -> None:
    page = (ROOT / "docs" / "families.md").read_text()
    between = re.search(r"<!-- families:begin -->\n(.*?)\n<!-- families:end -->", page, re.DOTALL)
    assert between, "no markers"
    assert between[1] == table(FILE), "python -m tests.results.make_table families.json prints the new one"


def test_the_table_of_families_has_a_row_for_each_that_is_declared() -> None:
    rows = json.loads(FILE.read_text())
    assert FAMILIES.keys() <= rows.keys() | {"qwen3_next"}
    assert {name for name in TINY if "-" not in name} == FAMILIES.keys()


@pytest.mark.parametrize("name", TINY)
def test_layers_and_sizes_are_read_off_the_config(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    model = make_checkpoint(name, tmp_path)
    facts = read_facts(str(tmp_path))
    assert facts.family == name.partition("-")[0]
    assert (facts.moe_layers, facts.shared_experts) == (tiny.moe_layers, tiny.shared_experts)
    expert_weights = {path: tensor for path, tensor in model.named_parameters() if ".experts." in path}
    assert {int(re.search(r"layers\.(\d+)\.", path)[1]) for path in expert_weights} == set(tiny.moe_layers)
    parameters = sum(tensor.numel() for tensor in expert_weights.values())
    assert facts.parameters_per_expert * facts.num_experts * len(facts.moe_layers) == parameters


@pytest.fixture
def facts_of(tmp_path: Path) -> Callable[..., Any]:
    """A function that reads the facts of a config."""

    def read(**config: Any) -> Any:
        base = {"num_hidden_layers": 6, "hidden_size": 8, "intermediate_size": 4, "model_type": "nobody-knows"}
        (tmp_path / "config.json").write_text(json.dumps({**base, "num_experts_per_tok": 2, **config}))
        return read_facts(str(tmp_path))

    return read


def test_a_family_that_nobody_declared_is_guessed_from_its_config(facts_of: Callable[..., Any]) -> None:
    facts = facts_of(
        n_routed_experts=8,
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        n_group=4,
        topk_group=2,
        first_k_dense_replace=3,
        n_shared_experts=1,
    )
    assert facts.rule == RoutingRule("sigmoid", True, 2.5, True, groups=4, groups_kept=2, group_score="top2")
    assert (facts.moe_layers, facts.shared_experts) == ((3, 4, 5), 1)
    assert facts_of(num_experts=8).rule == RoutingRule("softmax", normalized=False)


def test_layers_that_differ_in_their_experts_are_refused(facts_of: Callable[..., Any]) -> None:
    assert facts_of(num_experts=[8, 8]).num_experts == 8
    with pytest.raises(MoetraceError, match=r"num_experts differs between layers \(\[4, 8\]\)"):
        facts_of(num_experts=[4, 8])
