"""The tests lie as the code does: what is in store/write is tested in tests/store/write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grimp
import pytest

from moetrace.cli.main import COMMANDS
from tests.support.imports import imported
from tests.support.paths import ROOT, product_modules

if TYPE_CHECKING:
    from pathlib import Path

TESTS = ROOT / "tests"
MODULES = product_modules()
OF_NO_PACKAGE = {
    "benchmarks",
    "calibration",
    "chaos",
    "end_to_end",
    "experiments",
    "hostile",
    "reference",
    "reference_pages",
    "results",
    "support",
}
STARTED = {  # by name, and imported by nobody
    *(place.partition(":")[0] for place in COMMANDS.values()),
    "moetrace.tracer.recording.plugin",  # by vLLM
    "moetrace.tracer.plan.worker",  # by the processes of `tracer/plan/pool.py`
    "moetrace.tracer.bundled.make_model",  # by `make model`
    "moetrace.tracer.bundled.measure_model",
}


def packages() -> list[str]:
    """The folders of the code that have a module beside their __init__, as paths from the root."""
    folders = {path.parent for path in MODULES.values() if path.name != "__init__.py"} - {ROOT / "src" / "moetrace"}
    return sorted(str(folder.relative_to(ROOT)) for folder in folders)


def imports_of_tests_reach(folder: Path, package: str) -> bool:
    """Whether a test module of the folder, or a module of tests/support that it imports, imports of the package."""
    files = sorted(folder.glob("test_*.py"))
    helpers = {ROOT / f"{name.replace('.', '/')}.py" for path in files for name in imported(path)}
    helpers = {path for path in helpers if path.is_relative_to(TESTS / "support") and path.is_file()}
    return any(f"{name}.".startswith(f"{package}.") for path in {*files, *helpers} for name in imported(path))


@pytest.mark.parametrize("folder", packages())
def test_each_package_has_tests_in_the_folder_of_its_name(folder: str) -> None:
    package = f"moetrace.{folder.replace('/', '.')}"
    tests = TESTS / folder
    assert list(tests.glob("test_*.py")), f"no test in tests/{folder}"
    assert imports_of_tests_reach(tests, package), f"no test in tests/{folder} imports anything of {package}"


def test_each_folder_of_tests_is_of_a_package_or_known() -> None:
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py") if path.parent != TESTS}
    of_packages = {path.parent.relative_to(ROOT) for path in MODULES.values()}
    assert {str(folder) for folder in folders - of_packages if folder.parts[0] not in OF_NO_PACKAGE} == set()


def test_every_module_is_used() -> None:
    """By a test, by name, or by a module that is used: what nobody reaches is left over."""
    graph = grimp.build_graph("moetrace", cache_dir=None)
    names = set().union(*(imported(path) for path in TESTS.rglob("*.py")))
    wanted = {name for name in MODULES if name in names} | STARTED
    used: set[str] = set()
    while wanted:
        name = wanted.pop()
        used.add(name)
        wanted |= (graph.find_modules_directly_imported_by(name) & MODULES.keys()) - used
    left = MODULES.keys() - used
    assert {name for name in left if MODULES[name].name != "__init__.py"} == set()


def test_no_test_module_is_imported() -> None:
    """What two test modules share is in tests/support or tests/reference."""
    modules = {path.stem for path in TESTS.rglob("test_*.py")}
    parts = {
        str(path.relative_to(ROOT)): {
            part for name in imported(path) if name.startswith("tests.") for part in name.split(".")
        }
        for path in TESTS.rglob("*.py")
    }
    assert {file: sorted(found & modules) for file, found in parts.items() if found & modules} == {}
