"""Runs to select from: two that can be compared, and some that cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from tests.support.selections import GENERAL, RECORD
from tests.support.stores import World, make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(1, RECORD)


@pytest.fixture(scope="module")
def general() -> World:
    return make_world(2, GENERAL)


@pytest.fixture(scope="module")
def folder(world: World, general: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strategies") / "store"
    write_world(path, world)
    write_world(path, general)
    write_world(path, make_world(3, make_record("deeper", moe_layers=range(2, 11))))
    write_world(path, make_world(4, make_record("wider", moe_layers=range(2, 10), num_experts=9, top_k=3)))
    write_world(path, make_world(5, make_record("routes", moe_layers=range(2, 10), tables=["tokens", "routes"])))
    write_counts(path, make_record("counts", tables=["usage"]), {"a": np.full((3, 8), 5)}, {"a": 20})
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> duckdb.DuckDBPyConnection:
    return connect(folder)
