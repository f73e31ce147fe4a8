"""What all strategies have in common: what they refuse, which experts just missed, and what they import."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import gap, rise, task, top_k, top_p
from moetrace.analytics.selection.selection import Selection, SelectionError
from moetrace.store.errors import MoetraceError, UnknownNameError
from tests.support.selections import cells
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import duckdb

SELECT: dict[str, Callable[..., Selection]] = {"gap": gap, "top-p": top_p, "top-k": top_k, "task": task}


@pytest.mark.parametrize(
    ("strategy", "targets", "options", "error", "message"),
    [
        *(
            (name, ["swh"], {"against": "general"} if name == "task" else {}, UnknownNameError, "did you mean swh_Latn")
            for name in SELECT
        ),
        ("gap", [], {}, SelectionError, "name it with --target"),
        ("gap", ["swh_Latn"], {"reference": ["english"]}, UnknownNameError, "did you mean eng_Latn"),
        ("gap", ["swh_Latn"], {"reference": ["swh_Latn"]}, SelectionError, "swh_Latn is the only one"),
        ("gap", ["swh_Latn"], {"parent": "eng"}, UnknownNameError, "did you mean eng_Latn"),
        (
            "gap",
            ["swh_Latn"],
            {"layers": 9},
            SelectionError,
            "layers 9: run 'run' has 8 MoE layers; pass --layers 1 to 8",
        ),
        ("gap", ["swh_Latn"], {"layers": 0}, SelectionError, "layers 0: "),
        ("gap", ["swh_Latn"], {"shared": 9}, SelectionError, "shared 9: .*pass --shared 0 to 8"),
        ("gap", ["swh_Latn"], {"min_count": -1}, SelectionError, "min-count -1: pass 0 or more with --min-count"),
        ("top-k", [], {"min_count": -1}, SelectionError, "min-count -1: pass 0 or more with --min-count"),
        ("gap", ["swh_Latn"], {"alpha": 1}, SelectionError, "of theirs is 0[.][0-9]+.; lower --alpha"),
        ("gap", ["swh_Latn"], {"alpha": float("nan")}, SelectionError, "alpha nan: pass a finite number"),
        ("top-p", [], {"p": 0}, SelectionError, "p 0: pass a share above 0"),
        ("top-p", [], {"p": 1.01}, SelectionError, "p 1.01: pass a share above 0"),
        ("top-p", [], {"score": "tokens"}, SelectionError, "score 'tokens': pass one of token, gate"),
        ("top-k", [], {"budget": 65}, SelectionError, "budget 65: run 'run' has 64 experts; pass --budget 1 to 64"),
        ("top-k", [], {"budget": 0}, SelectionError, "budget 0: "),
        ("top-k", [], {"per_layer": 9}, SelectionError, "per-layer 9: a layer of run 'run' has 8 experts"),
        ("top-k", [], {"per_layer": 1, "budget": 1}, SelectionError, "not both"),
        ("task", ["swh_Latn", "eng_Latn"], {"against": "general"}, SelectionError, "in one language or in all"),
        ("task", [], {"against": "generel"}, UnknownNameError, "did you mean general"),
        ("task", [], {"against": "run"}, SelectionError, "cannot be compared with itself"),
        ("task", [], {"against": "deeper"}, SelectionError, "of other models: MoE layers 2-9 and 2-10"),
        ("task", [], {"against": "wider"}, SelectionError, "experts in a layer 8 and 9; top-k 2 and 3"),
        ("task", [], {"against": "routes"}, SelectionError, "has no usage"),
        ("task", [], {"against": "general", "tau": 1.0}, SelectionError, "above tau 1 .*score is .*; lower --tau"),
    ],
)
def test_what_cannot_be_selected_is_a_one_line_error(
    strategy: str,
    targets: list[str],
    options: dict[str, Any],
    error: type[MoetraceError],
    message: str,
    opened: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(error, match=message) as raised:
        SELECT[strategy](opened, "run", targets, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("strategy", ["gap", "top-p", "top-k"])
def test_a_run_without_usage_cannot_be_selected_from(strategy: str, opened: duckdb.DuckDBPyConnection) -> None:
    targets = ["swh_Latn"]
    with pytest.raises(SelectionError, match="run 'routes' has no usage"):
        SELECT[strategy](opened, "routes", targets)
    with pytest.raises(UnknownNameError, match="the store has no run 'ruotes'; did you mean routes"):
        SELECT[strategy](opened, "ruotes", targets)


def test_counts_without_texts_or_weights_say_what_is_missing(tmp_path: Path) -> None:
    records = [make_record(name, ["a"], moe_layers=[0, 1, 2], tables=["usage"]) for name in ("x", "y")]
    for record in records:
        write_counts(tmp_path, record, {"a": np.full((3, 8), 5)}, {"a": 20})
    connection = connect(tmp_path)
    assert len(top_p(connection, "x").experts) == 6
    with pytest.raises(SelectionError, match="has no gate weights; pass --score token"):
        top_p(connection, "x", score="gate")
    with pytest.raises(SelectionError, match="imported without texts"):
        task(connection, "x", against="y")


def test_just_missed_experts_are_the_next_ones(opened: duckdb.DuckDBPyConnection) -> None:
    for budget in range(1, 64):
        now, one_more = (
            top_k(opened, "run", ["swh_Latn"], budget=number, min_count=0) for number in (budget, budget + 1)
        )
        assert {(item.layer, item.expert) for item in now.missed} == set(cells(one_more)) - set(cells(now))
    assert top_k(opened, "run", budget=64, min_count=0).missed == ()
    made = rise(opened, "run", ["swh_Latn"], budget=20, min_count=0)
    for item in made.missed:
        chosen = [other for other in made.experts if other.zone == item.zone]
        assert item.score <= min(other.score for other in chosen)
    lowest = gap(opened, "run", ["swh_Latn"], alpha=0.05, shared=1, min_count=0)
    for item in lowest.missed:
        if item.role == "specific":
            wider = gap(opened, "run", ["swh_Latn"], alpha=item.score, shared=0, min_count=0)
            assert (item.layer, item.expert) in cells(wider)


def test_exporting_imports_nothing_heavy() -> None:
    modules = ("database.connection", "selection", "masks.formats")
    code = f"import sys, {', '.join(f'moetrace.analytics.{name}' for name in modules)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "vllm", "transformers", "polars", "pandas", "altair", "datasets"} & set(loaded)
