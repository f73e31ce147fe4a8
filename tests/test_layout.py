"""The tests lie as the code does: what is in store/write is tested in tests/store/write."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

import grimp
import pytest

from tests.support.paths import ROOT, product_modules

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TESTS = ROOT / "tests"
MODULES = product_modules()
ELSEWHERE: dict[str, tuple[str, str]] = {
    "tracer/bundled": ("tests/cli", "it is data and a script; `moetrace demo` and the tests of the engine use it"),
}
# Modules that no test of their package reaches, with the tests that run them.
RUN_ELSEWHERE: dict[str, str] = {}
BY_NAME = {"cli"}  # its commands are loaded by name: tests/cli/test_cli.py calls each
OF_NO_PACKAGE = {"benchmarks", "end_to_end", "reference", "results", "support"}


def packages() -> list[str]:
    """The folders of the code that have a module beside their __init__, as paths from the root."""
    folders = {path.parent for path in MODULES.values() if path.name != "__init__.py"} - {ROOT / "src" / "moetrace"}
    return sorted(str(folder.relative_to(ROOT)) for folder in folders)


def imported(path: Path) -> set[str]:
    """The modules that a file imports, type checkers' imports included; a name may be a module or in one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("test_*.py"))


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("moetrace", cache_dir=None)


def reached(start: Iterable[str], package: str) -> set[str]:
    """The modules of a package that are imported by these, or by one of the package's own that is reached."""
    wanted = {name for name in start if name in MODULES and f"{name}.".startswith(f"{package}.")}
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        seen.add(name)
        inside = {found for found in graph().find_modules_directly_imported_by(name) if found.startswith(f"{package}.")}
        wanted |= inside - seen
    return seen


@pytest.mark.parametrize("folder", packages())
def test_each_package_has_tests_in_the_folder_of_its_name(folder: str) -> None:
    if folder in ELSEWHERE:
        assert not files_in(TESTS / folder), "it has tests of its own now: take it out of ELSEWHERE"
        place = ROOT / ELSEWHERE[folder][0]
        package = f"moetrace.{folder.replace('/', '.')}"
        assert any(package in imported(path) for path in files_in(place)), f"{place} does not test it"
    else:
        assert files_in(TESTS / folder), f"no test in tests/{folder}"


def test_what_is_tested_elsewhere_exists() -> None:
    assert set(ELSEWHERE) <= set(packages())


@pytest.mark.parametrize("folder", [name for name in packages() if name not in {*ELSEWHERE, *BY_NAME}])
def test_no_module_is_out_of_reach_of_its_packages_tests(folder: str) -> None:
    """What a package's tests import, and what that imports of the package, is the package."""
    package = f"moetrace.{folder.replace('/', '.')}"
    start: set[str] = set()
    files, seen = files_in(TESTS / folder), set()
    while files:
        file = files.pop()
        seen.add(file)
        start |= (names := imported(file))
        helpers = {TESTS / f"{name.removeprefix('tests.').replace('.', '/')}.py" for name in names}
        files += [path for path in helpers if path.is_file() and path not in seen]
    mine = {name for name, path in MODULES.items() if str(path.parent.relative_to(ROOT)) == folder}
    missing = mine - reached(start, package) - {package}
    assert sorted(missing) == sorted(mine & RUN_ELSEWHERE.keys())


def test_what_is_run_elsewhere_exists() -> None:
    assert RUN_ELSEWHERE.keys() <= MODULES.keys()
    assert [place for place in RUN_ELSEWHERE.values() if not (ROOT / place).is_file()] == []


def test_each_folder_of_tests_is_of_a_package_or_known() -> None:
    folders: dict[str, list[str]] = defaultdict(list)
    for path in TESTS.rglob("test_*.py"):
        inside = path.parent.relative_to(TESTS)
        if path.parent != TESTS and inside.parts[0] not in OF_NO_PACKAGE:
            folders[str(inside)].append(path.name)
    of_packages = {str(path.parent.relative_to(ROOT)) for path in MODULES.values()}
    assert {folder: names for folder, names in folders.items() if folder not in of_packages} == {}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_module_is_imported(path: Path) -> None:
    """What two test modules share is in tests/support or tests/reference."""
    named = {part for name in imported(path) if name.startswith("tests.") for part in name.split(".")[1:]}
    assert named & {file.stem for file in TESTS.rglob("test_*.py")} == set()
