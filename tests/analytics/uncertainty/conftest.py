from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.database.connection import connect
from tests.analytics.uncertainty.world import WORLD
from tests.support.stores import write_world

if TYPE_CHECKING:
    import duckdb


@pytest.fixture(scope="package")
def opened(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    path = tmp_path_factory.mktemp("store")
    write_world(path, WORLD)
    return connect(path)
