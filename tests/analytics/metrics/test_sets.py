"""Sets of the most used experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics import metrics
from moetrace.store.errors import MoetraceError
from tests.support.stores import make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path


def test_a_set_of_no_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoetraceError, match="n = 0: a set of experts has at least 1 member"):
        metrics.jaccard(open_worlds(tmp_path, [make_world(13)]), n=0)
