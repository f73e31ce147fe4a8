"""Stores that several tests of metrics ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.stores import make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    import duckdb


@pytest.fixture(scope="module")
def three_languages(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    return open_worlds(tmp_path_factory.mktemp("store"), [make_world(1)])
