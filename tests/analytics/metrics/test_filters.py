"""Metrics of some tokens alone: those of the prompt, those after the first, those of text, those of shared texts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import view
from moetrace.analytics.database.errors import QueryError
from moetrace.store.errors import MoetraceError
from tests.reference import metrics as reference
from tests.reference.agreement import agrees_with_reference, close, keyed
from tests.support.stores import World, make_record, make_world, write_counts
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

FILTERED = sorted(name for name in reference.METRICS if "prompt_only" in view(name).defaults)
SPECIAL = list(range(0, 50, 3))
FILTERS: list[dict[str, Any]] = [
    *({"prompt_only": True}, {"skip_positions": 1}, {"skip_positions": 5}, {"skip_special": True}),
    *({"shared_texts": True}, {"shared_texts": True, "languages": ["deu_Latn", "swh_Latn"], "layers": [5]}),
    {"prompt_only": True, "skip_positions": 2, "skip_special": True, "shared_texts": True, "layers": [1, 2]},
]


def generating(world: World) -> World:
    """Return a world whose texts were generated from their second third on."""
    model = {**world.record.model, "special_token_ids": SPECIAL}
    texts = {
        lang: [replace(text, generated=len(text.token_ids) * 2 // 3) for text in texts]
        for lang, texts in world.texts.items()
    }
    return World(replace(world.record, model=model), texts)


WORLDS = [
    generating(make_world(31, texts=9)),
    generating(make_world(32, make_record("other", num_experts=300, top_k=1, moe_layers=[2, 5]))),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    return open_worlds(tmp_path_factory.mktemp("store"), WORLDS)


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("name", FILTERED)
def test_sql_agrees_with_the_reference_on_the_tokens_that_are_kept(
    name: str, filters: dict[str, Any], opened: duckdb.DuckDBPyConnection
) -> None:
    agrees_with_reference(opened, WORLDS, name, filters)


def test_each_filter_leaves_something_out_and_something_in(opened: duckdb.DuckDBPyConnection) -> None:
    everything = metrics.overlap(opened)["count"].sum()
    for filters in FILTERS[:5]:
        assert 0 < metrics.overlap(opened, **filters)["count"].sum() < everything, filters


def test_every_metric_of_counts_can_be_filtered() -> None:
    assert [
        *("activation", "activation_gap", "divergence", "divergence_by_layer", "exclusive_experts", "expert_sets"),
        *("jaccard", "jaccard_by_language", "jaccard_by_layer", "jaccard_by_pair", "jaccard_curve"),
        *("language_specialization", "overlap", "routing_entropy", "specificity"),
    ] == FILTERED


def test_a_filter_that_leaves_nothing_out_gives_what_the_roll_ups_give(tmp_path: Path) -> None:
    """As special tokens occurs no id; so the counts come from routes, and are those of the roll-ups."""
    world = generating(make_world(33, make_record(tables=["sequences", "tokens", "routes", "usage"])))
    record = replace(world.record, model={**world.record.model, "special_token_ids": [10**6]})
    opened = open_worlds(tmp_path, [World(record, world.texts)])
    for name in FILTERED:
        rolled_up, counted = (
            keyed(getattr(metrics, name)(opened, **filters).to_dicts()) for filters in ({}, {"skip_special": True})
        )
        assert close(rolled_up, counted, 1e-12), name


def test_filters_that_are_off_open_no_file_of_routes(tmp_path: Path) -> None:
    """A store whose routes, tokens and sequences are gone answers what comes from roll-ups, and nothing else."""
    opened = open_worlds(tmp_path, [make_world(34)])
    expected = {name: keyed(getattr(metrics, name)(opened).to_dicts()) for name in FILTERED}
    for table in ("routes", "tokens", "sequences"):
        for file in (tmp_path / table).rglob("*.parquet"):
            file.unlink()
    off: dict[str, Any] = {"prompt_only": False, "skip_positions": 0, "skip_special": False, "shared_texts": False}
    for name in FILTERED:
        for filters in ({}, off):
            found = keyed(getattr(metrics, name)(opened, **filters).to_dicts())
            assert close(expected[name], found, 1e-12), name
        plan = opened.sql(f"explain from {name}").fetchall()[0][1]
        assert "usage_by_language" in plan
        assert "unread" not in plan
    with pytest.raises(MoetraceError):
        metrics.overlap(opened, prompt_only=True)


@pytest.mark.parametrize("filters", [{"prompt_only": True}, {"skip_positions": 1}], ids=str)
def test_a_run_without_routes_says_that_a_filter_needs_them(filters: dict[str, Any], tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    counts = {"a": np.array([[4, 6]]), "b": np.array([[5, 5]])}
    opened = connect(write_counts(tmp_path, record, counts, {"a": 10, "b": 10}))
    for name in FILTERED:
        message = (
            f"^{name} with {next(iter(filters))} has nothing of run 'run', which was traced without routes and tokens"
        )
        with pytest.raises(MoetraceError, match=message):
            getattr(metrics, name)(opened, **filters)


def test_a_run_that_lacks_what_a_filter_asks_is_an_error_in_one_line(tmp_path: Path) -> None:
    world = make_world(35)
    apart = replace(world.record, corpus={**world.record.corpus, "parallel": False})
    opened = open_worlds(tmp_path, [World(apart, world.texts)])
    for filters, message in (
        ({"skip_special": True}, "run 'run' does not say which token ids are special: trace it again, or leave"),
        ({"shared_texts": True}, "run 'run' has text ids that are not the same across languages: leave shared_texts"),
        ({"skip_positions": -1}, "skip_positions is -1; it is a number of tokens, from 0"),
    ):
        with pytest.raises(QueryError, match=message) as raised:
            metrics.jaccard(opened, **filters)
        assert "\n" not in str(raised.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'skip_position'"):
        metrics.jaccard(opened, skip_position=1)  # type: ignore[call-arg]


def test_a_run_that_lacks_what_a_filter_asks_has_no_rows_where_another_has_it(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [generating(make_world(36)), make_world(37, make_record("unknown"))])
    alone = open_worlds(tmp_path / "alone", [generating(make_world(36))])
    for name in FILTERED:
        first, other = (getattr(metrics, name)(found, skip_special=True).to_dicts() for found in (opened, alone))
        assert close(keyed(first), keyed(other), 1e-12), name
