"""The modes of the engine that a CPU can run, each in a process of its own, against the eager engine in another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.results.make_table import RESULTS, table
from tests.support.modes import MODES, assert_steered
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.warm import Run, WarmProcess

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def runs(warm: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, Path]]:
    """The eager engine and every mode, each with the file of what it traced."""
    files = {mode: tmp_path_factory.mktemp("modes") / "found.npz" for mode in ("eager", *MODES)}
    found = warm.run_all("tests.support.modes", files.items())
    return {mode: (run, files[mode]) for mode, run in zip(files, found, strict=True)}


def traced(run: Run, path: Path) -> dict[str, np.ndarray]:
    assert path.is_file(), run.stderr[-3000:]
    return dict(np.load(path))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_routes_as_the_eager_engine(
    mode: str, runs: dict[str, tuple[Run, Path]], mode_result: Callable[..., None]
) -> None:
    eager, found = traced(*runs["eager"]), traced(*runs[mode])
    refusals = found.pop("late tap", None)
    assert found.keys() == eager.keys()
    error = 0.0
    for name, expected in eager.items():
        if name.endswith("experts"):
            assert np.array_equal(np.sort(found[name], axis=1), np.sort(expected, axis=1)), name
        elif name.endswith("weights"):
            error = max(error, float(np.abs(np.sort(found[name], axis=1) - np.sort(expected, axis=1)).max()))
        else:
            assert np.abs(found[name] - expected).max() < 1e-5, name
    assert error < 1e-5
    assert_steered(eager)
    if mode == "compiled":
        assert refusals is not None
        assert len(refusals) == 2, "a tap installed after the compiler passed"
        assert "a tap that comes now would see nothing" in refusals[0]
        assert "layer 0: the tap saw nothing" in refusals[1]
    mode_result(mode, "tested", 1.0, error)


def test_the_documentation_has_the_table_of_modes() -> None:
    page = (ROOT / "docs" / "families.md").read_text()
    between = re.search(r"<!-- modes:begin -->\n(.*?)\n<!-- modes:end -->", page, re.DOTALL)
    assert between, "no markers"
    assert between[1] == table(RESULTS / "modes.json"), (
        "python -m tests.results.make_table modes.json prints the new one"
    )
