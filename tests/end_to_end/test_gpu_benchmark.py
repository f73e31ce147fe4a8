"""The benchmark that needs a GPU runs on a CPU, but for what only a GPU has: nobody can run it elsewhere so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.warm import WarmProcess


@pytest.mark.engine
def test_it_prints_its_table_and_replays_its_steps(warm: WarmProcess) -> None:
    options = ("--small", "--modes", "eager", "--tokens", "3000", "--decode", "4", "6", "--writers", "1,2")
    (run,) = warm.run_all("tests.benchmarks.bench_gpu", [options])
    assert run.wait() == 0, run.stderr[-3000:]
    said = run.stdout
    assert said.count("layers are routed by the rule") == 3
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| eager | ")]
    # Untraced, and traced: prefill with each number of writers, decoding with one.
    assert sorted(row[1] for row in rows) == ["decoding"] * 2 + ["prefill"] * 3
    assert all(float(row[3].replace(",", "")) > 0 for row in rows)
