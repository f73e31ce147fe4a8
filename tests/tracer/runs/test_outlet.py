"""Captured shards take no more memory than was allowed, and the engine waits rather than growing."""

from __future__ import annotations

import threading
import time

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.runs.outlet import MemoryBudget


def test_what_does_not_fit_is_refused_or_waited_for() -> None:
    budget = MemoryBudget(100)
    assert budget.take("a", 60, wait=False)
    assert not budget.take("b", 60, wait=False)
    budget.give_back("a")
    assert budget.take("b", 60, wait=False)
    assert budget.peak == 60


def test_waiting_ends_when_a_shard_is_written() -> None:
    budget = MemoryBudget(100)
    budget.take("a", 60, wait=False)
    written = threading.Timer(0.2, budget.give_back, ["a"])
    written.start()
    started = time.monotonic()
    assert budget.take("b", 60, wait=True)
    assert time.monotonic() - started > 0.1, "it did not wait"


def test_a_shard_larger_than_everything_says_what_to_do() -> None:
    with pytest.raises(MoetraceError, match=r"eng/0 takes 4 MiB.*--max-memory allows \(1 MiB\)"):
        MemoryBudget(2**20).take("eng/0", 2**22, wait=True)
