"""The names that packages offer and import only when they are asked for, `import moetrace` first of all."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest

import moetrace
from tests.support.paths import ROOT, product_modules

WITH_DOORS = {
    name: path for name, path in product_modules().items() if "= doors(" in path.read_text() and path.stem == "__init__"
}
HEAVY = {"torch", "transformers", "vllm"}


def table_of(source: str) -> dict[str, str]:
    """The dictionary that a package gives to `doors`: for each name the module that has it."""
    (call,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "doors"
    )
    return dict(ast.literal_eval(call.args[1]))


def seen_by_a_type_checker(package: str, source: str) -> dict[str, str]:
    """For each name that is imported under TYPE_CHECKING the module that has it, relative to the package."""
    guarded = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    return {
        alias.name: str(node.module).removeprefix(f"{package}.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_moetrace_itself_has_doors() -> None:
    assert "moetrace" in WITH_DOORS


@pytest.mark.parametrize("package", WITH_DOORS)
def test_a_package_lists_what_it_offers_and_a_type_checker_sees_the_same(package: str) -> None:
    source = WITH_DOORS[package].read_text()
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    assert table_of(source) == seen_by_a_type_checker(package, source)
    assert sorted(table_of(source)) == dir(module)


@pytest.mark.parametrize("package", WITH_DOORS)
def test_each_name_is_what_its_module_has_under_that_name(package: str) -> None:
    if package == "moetrace.tracer.training":
        pytest.importorskip("torch")
    module = importlib.import_module(package)
    for name, place in table_of(WITH_DOORS[package].read_text()).items():
        assert getattr(module, name) is getattr(importlib.import_module(f"{package}.{place}"), name)


@pytest.mark.parametrize("package", WITH_DOORS)
def test_an_unknown_name_is_refused_as_python_does(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module {package} has no attribute stroe"):
        module.stroe  # noqa: B018  asking is the test
    assert not hasattr(module, "stroe")


def test_what_moetrace_offers_is_described_where_help_shows_it() -> None:
    assert moetrace.__doc__
    for name in moetrace.__all__:
        assert f"- `{name}" in moetrace.__doc__


def test_the_names_need_neither_torch_nor_vllm_but_apply_mask() -> None:
    names = [name for name in moetrace.__all__ if name != "apply_mask"]
    run(f"""
import sys

for name in {HEAVY}:
    sys.modules[name] = None  # an import of it fails
import moetrace

assert not set(sys.modules) & {{f"moetrace.{{name}}" for name in ("store", "analytics", "tracer", "cli")}}
for name in {names}:
    getattr(moetrace, name)
""")
