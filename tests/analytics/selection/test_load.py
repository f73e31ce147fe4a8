"""How often the experts of a selection are used, and which load all of them take, against the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import gap, rise, sql, task, top_k, top_p
from moetrace.analytics.selection.selection import Load, Selection, SelectionError
from tests.reference import metrics as reference
from tests.reference import selections as reference_selections
from tests.support.published import STATS, import_files, write_stats
from tests.support.selections import LANGUAGES, cells
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import duckdb

    from tests.support.stores import World

QUERY = "select layer, expert from activation where run = 'run' and lang = 'eng_Latn' and frequency > 0.4"
ANY = {"min_count": 0}
CALLS: list[tuple[Callable[..., Selection], list[str], dict[str, Any], list[str]]] = [  # and the others it looked at
    (rise, ["swh_Latn"], ANY, ["deu_Latn", "eng_Latn"]),
    (rise, ["swh_Latn"], {"reference": ["eng_Latn"], **ANY}, ["eng_Latn"]),
    (rise, ["swh_Latn", "deu_Latn"], ANY, ["eng_Latn"]),
    (rise, ["swh_Latn", "deu_Latn"], {"reference": ["deu_Latn"], **ANY}, ["eng_Latn"]),
    (gap, ["swh_Latn"], ANY, ["deu_Latn", "eng_Latn"]),
    (gap, ["swh_Latn"], {"parent": "eng_Latn", "reference": ["deu_Latn"], **ANY}, ["deu_Latn", "eng_Latn"]),
    (top_p, ["swh_Latn"], {}, ["deu_Latn", "eng_Latn"]),
    (top_p, [], {}, list(LANGUAGES)),
    (top_k, ["eng_Latn", "deu_Latn"], {"per_layer": 2, **ANY}, ["swh_Latn"]),
    (top_k, list(LANGUAGES), {"per_layer": 2, **ANY}, []),
    (task, ["swh_Latn"], {"against": "general"}, ["deu_Latn", "eng_Latn"]),
    (task, [], {"against": "general"}, list(LANGUAGES)),
    (sql, ["deu_Latn"], {"query": QUERY}, ["eng_Latn", "swh_Latn"]),
    (sql, [], {"query": QUERY}, list(LANGUAGES)),
]


@pytest.mark.parametrize(("select", "targets", "options", "others"), CALLS)
def test_counts_and_loads_are_those_of_the_reference(
    select: Callable[..., Selection],
    targets: list[str],
    options: dict[str, Any],
    others: list[str],
    opened: duckdb.DuckDBPyConnection,
    world: World,
) -> None:
    data = reference.routing(world)
    options = {"budget": 20, **options} if select is rise else options
    found = select(opened, "run", targets, **options)
    count = sum(data.count[lang] for lang in targets or others)
    for item in (*found.experts, *found.missed):
        assert item.count == count[data.layers.index(item.layer), item.expert]
    theirs, ours = (
        reference_selections.load(data, cells(found), languages) if languages else None
        for languages in (others, targets)
    )
    assert (found.load.target, found.load.others) == (pytest.approx(ours, abs=1e-12), pytest.approx(theirs, abs=1e-12))


def test_all_experts_take_all_of_the_load(opened: duckdb.DuckDBPyConnection) -> None:
    assert top_k(opened, "run", ["swh_Latn"], budget=64, min_count=0).load == Load(1, 1)


def test_nobody_knows_the_load_of_what_was_not_counted(opened: duckdb.DuckDBPyConnection) -> None:
    found = sql(opened, "routes", ["swh_Latn"], query="select 3 as layer, 1 as expert")
    assert (found.load, found.experts[0].count) == (Load(None, None), None)


@pytest.fixture(scope="module")
def frequencies(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """A run of which activation frequencies alone were published."""
    folder = tmp_path_factory.mktemp("frequencies")
    stats = write_stats(folder / "routing_stats.json", STATS, experts=5, top_k=2, layers=3)
    import_files("rise-stats", folder / "store", str(stats))
    return connect(folder / "store")


def test_nominal_counts_are_held_to_no_least_and_not_told(frequencies: duckdb.DuckDBPyConnection) -> None:
    calls: list[tuple[Callable[..., Selection], dict[str, Any]]] = [
        (rise, {"budget": 4}),
        (gap, {"layers": 1}),
        (top_k, {"budget": 4}),
    ]
    for select, options in calls:
        found, without = (select(frequencies, "run", ["swh_Latn"], **options, **any_count) for any_count in ({}, ANY))
        assert found.experts == without.experts
        assert found.parameters["min_count"] is None
        assert found.parameters["min_count_note"].startswith("not applied: only activation frequencies are known")
        assert found.notes == (f"run 'run': --min-count 30 {found.parameters['min_count_note']}",)
        assert (without.parameters["min_count"], without.notes) == (0, ())
        assert "min_count_note" not in without.parameters
        assert {item.count for item in (*found.experts, *found.missed)} == {None}
    # Shares need no tokens: of each language 3 x 2 decisions a token.
    both = sql(frequencies, "run", ["swh_Latn"], query="from (values (0, 0), (2, 1)) as t(layer, expert)")
    assert (both.load.target, both.load.others) == (pytest.approx(1.5 / 4), pytest.approx(1 / 4))


def test_nominal_counts_cannot_be_shrunk(frequencies: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(SelectionError, match="run 'run' knows frequencies and no counts, so --shrinkage cannot"):
        rise(frequencies, "run", ["swh_Latn"], budget=4, shrinkage=1)


def test_loads_are_exact_for_billions_of_decisions(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0, 1], num_experts=3, top_k=1, tables=["usage"])
    large = 3_000_000_000
    rows = {"a": np.array([[large, large, large]] * 2), "b": np.array([[3 * large, 0, 0]] * 2)}
    opened = connect(write_counts(tmp_path, record, rows, dict.fromkeys(rows, 3 * large)))
    found = top_k(opened, "run", ["a"], budget=1)
    assert (found.load.target, found.load.others) == (1 / 6, 1 / 2)
    assert found.experts[0].count == large
