"""The modes of the engine that a CPU can run, each in a process of its own, against the eager engine of the session."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from store import MoetraceError
from tests.modes import MODES, arrays, plan
from tracer.bundled import MODEL
from tracer.engine import EngineSettings, TracedEngine
from tracer.families import read_facts

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.engine


@pytest.fixture(scope="session")
def eager(engine: TracedEngine) -> dict[str, np.ndarray]:
    return arrays(list(engine.trace(plan().shards)))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_routes_as_the_eager_engine(mode: str, eager: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    command = [sys.executable, "-m", "tests.modes", mode, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert path.is_file(), done.stderr[-3000:]
    found = dict(np.load(path))
    refusals = found.pop("late tap", None)
    assert found.keys() == eager.keys()
    for name, expected in eager.items():
        if name.endswith("experts"):
            assert np.array_equal(np.sort(found[name], -1), np.sort(expected, -1)), name
        elif name.endswith("weights"):
            assert np.abs(np.sort(found[name], -1) - np.sort(expected, -1)).max() < 1e-5, name
        else:
            assert np.abs(found[name] - expected).max() < 1e-5, name
    if mode == "compiled":
        assert refusals is not None
        assert len(refusals) == 2, "a tap installed after the compiler passed"
        assert "a tap that comes now would see nothing" in refusals[0]
        assert "layer 0: the tap saw nothing" in refusals[1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data_parallel_size": 2}, "run one engine a device on the same store"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative decoding"),
    ],
)
def test_a_mode_whose_rows_are_not_tokens_is_refused(options: dict[str, object], reason: str) -> None:
    settings = EngineSettings(dtype="float32", max_model_len=512, options=options)
    with pytest.raises(MoetraceError, match=reason):
        TracedEngine(read_facts(str(MODEL)), settings)


def test_expert_parallelism_on_a_cpu_is_refused_before_it_crashes() -> None:
    with pytest.raises(MoetraceError, match="MoE kernel for CPUs ignores which experts are local"):
        TracedEngine(read_facts(str(MODEL)), EngineSettings(tensor_parallel_size=2, expert_parallel=True))
