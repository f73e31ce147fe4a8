"""Selecting by a query, and the queries that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.selection import sql
from moetrace.analytics.selection.selection import SelectionError
from moetrace.store.errors import MoetraceError
from tests.reference import metrics as reference
from tests.support.selections import cells

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stores import World


def test_a_query_selects_the_experts_it_returns(folder: Path, world: World) -> None:
    query = """
        select layer, expert, frequency as Score
        from activation
        where run = 'run' and lang = 'swh_Latn' and frequency > 0.5
        """
    found = sql(connect(folder), "run", query=query)
    frequency = reference.routing(world).frequency("swh_Latn")
    expected = {
        (layer, expert): frequency[index, expert]
        for index, layer, expert in reference.routing(world).cells()
        if frequency[index, expert] > 0.5
    }
    assert {(item.layer, item.expert): item.score for item in found.experts} == pytest.approx(expected)
    assert cells(found) == sorted(expected)
    without = sql(connect(folder), "run", query="select 7::utinyint as expert, 9::bigint as layer;")
    assert [(item.layer, item.expert, item.score) for item in without.experts] == [(9, 7, None)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select 1 as layer, 0 as expert", "row 1: layer 1 is no MoE layer of run 'run', which are 2-9"),
        ("from (values (2, 0), (2, 8)) as t(layer, expert)", "row 2: expert 8, but a layer of run 'run' has 8"),
        ("select 2 as layer, -1 as expert", "row 1: expert -1, but"),
        ("from (values (2, 0), (2, 0)) as t(layer, expert)", "row 2: layer 2, expert 0 stands twice"),
        ("from (values (2, null)) as t(layer, expert)", "row 1: expert is NULL"),
        ("from (values (2, 0, null)) as t(layer, expert, score)", "row 1: score is NULL"),
        ("select 2.5 as layer, 0 as expert", "layer Decimal.'2.5'. is not a whole number"),
        ("select 2 as layer, true as expert", "expert True is not a whole number"),
        ("select 2 as layer, 0 as expert, 'nan'::float as score", "score nan is not a finite number"),
        ("select 2 as layer, 0 as expert, 'high' as score", "score high is not a finite number"),
        ("select 2 as layer", "returns columns layer; it must return layer, expert"),
        ("select 2 as layer, 0 as expert, 1 as rank", "it must return layer, expert"),
        ("select layer, expert from activation where false", "returns no rows"),
        ("select 1; select 2", "has 2 results"),
        ("", "has 0 results"),
    ],
)
def test_a_query_that_selects_no_experts_is_refused(query: str, message: str, folder: Path) -> None:
    with pytest.raises(SelectionError, match=message):
        sql(connect(folder), "run", query=query)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("selekt 1", "syntax error"),
        ("from nothing", "nothing does not exist"),
        ("from read_text('/etc/hostname')", "disabled"),
        ("copy (select 1) to 'file'", "not allowed"),
        ("select 'a'::int as layer, 0 as expert", "Could not convert"),
    ],
)
def test_what_is_no_query_is_refused_in_one_line(query: str, message: str, folder: Path) -> None:
    with pytest.raises(MoetraceError, match=message) as raised:
        sql(connect(folder), "run", query=query)
    assert "\n" not in str(raised.value)
