"""What import-linter cannot say of the code's shape: sizes, names, what an import loads. `make lint` has the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
from setuptools import find_packages

from tests.support.imports import imported
from tests.support.paths import PACKAGES, ROOT, product_modules

MODULES = product_modules()
MOST_LINES = 350
FOLDERS = [str(ROOT / name) for name in (*PACKAGES, "src", "tests")]
HEAVY = {"torch", "transformers", "vllm"}
LIGHT = sorted(name for name in MODULES if name.split(".")[1:2] in (["store"], ["analytics"], ["cli"], ["sql"]))


@cache
def graph() -> grimp.ImportGraph:
    """Which module imports which, imports for type checkers and inside functions included."""
    return grimp.build_graph("moetrace", cache_dir=None)


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_file_fits_in_a_readers_head() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_the_linter_sees_every_module() -> None:
    assert graph().modules == MODULES.keys()


def test_no_module_needs_itself() -> None:
    """Circles of modules, those through a package's __init__ included, which import-linter leaves out."""
    imports = {name: graph().find_modules_directly_imported_by(name) & MODULES.keys() for name in MODULES}
    while True:
        needed = set().union(*imports.values())
        circles = {name: wanted & imports.keys() for name, wanted in imports.items() if wanted and name in needed}
        if circles == imports:
            break
        imports = circles
    assert circles == {}


def test_the_packages_of_an_installation_are_the_folders_with_python_files() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(find_packages(ROOT / "src")) == packages
    assert {name.rpartition(".")[0] for name in MODULES} - {""} <= packages


def test_src_has_a_relative_link_for_each_folder_and_nothing_else() -> None:
    src = ROOT / "src" / "moetrace"
    links = {path.name: path.readlink() for path in src.iterdir() if path.is_symlink()}
    assert links == {name: Path("..", "..", name) for name in (*PACKAGES, "requirements-cpu.lock")}
    others = {path.name for path in src.iterdir()} - links.keys() - {"__pycache__"}
    assert others == {"__init__.py", "_doors.py", "py.typed"}


def test_nobody_imports_a_folder_by_another_name() -> None:
    files = [*MODULES.values(), *(ROOT / "tests").rglob("*.py")]
    names = {str(path.relative_to(ROOT)): imported(path) for path in files}
    wrong = {
        file: sorted(name for name in found if name.partition(".")[0] in {*PACKAGES, "src", ""})
        for file, found in names.items()
    }
    assert {file: found for file, found in wrong.items() if found} == {}


def test_what_pytest_has_loaded_goes_by_one_name() -> None:
    files = {name: Path(file) for name, module in sys.modules.items() if (file := getattr(module, "__file__", None))}
    ours = [name for name, file in files.items() if any(file.resolve().is_relative_to(folder) for folder in FOLDERS)]
    assert __name__ in ours
    assert {name.partition(".")[0] for name in ours} == {"moetrace", "tests"}


def test_the_program_loads_everything_under_one_name_and_nothing_heavy() -> None:
    """All commands are loaded, and --help is called, in a folder where `import store` would find ours."""
    run(f"""
import importlib, sys
from pathlib import Path

from moetrace.cli.main import COMMANDS, run

assert run(["--help"]) == 0
assert not {HEAVY} & sys.modules.keys()
for name in {LIGHT}:
    importlib.import_module(name)
loaded = {HEAVY} & sys.modules.keys()
assert not loaded, loaded
files = {{name: Path(file) for name, module in sys.modules.items() if (file := getattr(module, "__file__", None))}}
ours = {{name for name, file in files.items() if any(file.resolve().is_relative_to(f) for f in {FOLDERS})}}
assert "moetrace.cli.main" in ours
assert {{name.partition(".")[0] for name in ours}} == {{"moetrace"}}, ours
""")


def test_only_the_storage_walks_or_removes_files_of_a_store() -> None:
    """What is not asked of `store/storage/` could follow a link out; -o and imports have files of their own."""
    touches = re.compile(r"\.unlink\(|rmtree|os\.remove|\.rename\(|\.iterdir\(|\.r?glob\(|os\.walk|scandir")
    found = {
        name
        for name, path in MODULES.items()
        if name.startswith("moetrace.store.") and touches.search(path.read_text())
    }
    assert found - {"moetrace.store.output", "moetrace.store.imports.layer_files"} == {
        "moetrace.store.storage.local",
        "moetrace.store.storage.remote",
    }
