"""What an installation adds: `moetrace` and nothing else, complete, and safe from a folder with files of our names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import PACKAGES, ROOT, product_modules

if TYPE_CHECKING:
    from pathlib import Path

DATA = {".css", ".html", ".js", ".json", ".jsonl", ".md", ".py", ".safetensors", ".sql"}
OTHERS_FILES = ("store.py", "cli.py", "tracer.py", "analytics.py", "sql/__init__.py")


@dataclass(frozen=True)
class Built:
    """A source distribution and a wheel made from the tree, and a wheel made from the unpacked source distribution."""

    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


def build(tree: Path, kind: str) -> Path:
    """Make an `sdist` or a `wheel` of a tree, in a folder of that name in it; return the file."""
    program = f"import setuptools.build_meta as build; build.build_{kind}({kind!r})"
    (tree / kind).mkdir()
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=tree)
    assert done.returncode == 0, done.stderr
    (file,) = (tree / kind).iterdir()
    return file


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"
    tree.mkdir()
    for name in (*PACKAGES, "src"):
        shutil.copytree(
            ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    sdist, wheel = build(tree, "sdist"), build(tree, "wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return Built(sdist, wheel, build(unpacked, "wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel but those about the wheel itself."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it and, after that on its path, what the wheel needs."""
    environment = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(built.wheel)], check=True, capture_output=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # A line of a .pth file is a folder whose own .pth files are not read: the editable moetrace stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def others_folder(tmp_path: Path) -> Path:
    """Somebody's folder with modules of the names that our folders have; whoever imports one fails."""
    for name in OTHERS_FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise RuntimeError('somebody else wrote {name}')\n")
    return tmp_path


def run(python: Path, folder: Path, *args: str) -> str:
    """Run a Python in a folder that is first on its path; it must succeed. Return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([python, *args], check=False, capture_output=True, text=True, cwd=folder, env=clean)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_adds_moetrace_alone(built: Built) -> None:
    assert {name.partition("/")[0] for name in contents(built.wheel)} == {"moetrace"}


def test_the_wheel_has_every_module_and_data_file(built: Built) -> None:
    files = contents(built.wheel)
    for name, path in product_modules().items():
        inside = name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
        assert files[inside] == path.read_bytes()
    data = {
        f"moetrace/{path.relative_to(ROOT)}"
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix in DATA and path != ROOT / "sql" / "README.md"
    }
    assert data <= files.keys()
    assert "moetrace/py.typed" in files


def test_a_wheel_made_from_the_source_distribution_is_the_same(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)


def test_links_are_files_in_the_source_distribution(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        assert [member.name for member in archive if member.issym() or member.islnk()] == []


def test_the_commands_run_in_a_folder_with_files_of_our_names(installed: Path, others_folder: Path) -> None:
    for lang, counts in {"en": (3, 1), "sw": (1, 3)}.items():
        experts = {
            str(expert): {"activation_tokens": count, "gate_values_sum": count / 2}
            for expert, count in enumerate(counts)
        }
        file = others_folder / f"{lang}.json"
        file.write_text(json.dumps({str(layer): experts | {"total_tokens": 4} for layer in range(8)}))

    def moetrace(*args: str) -> str:
        return run(installed, others_folder, "-m", "moetrace.cli.main", *args)

    assert "Start with `moetrace demo`" in run(installed, others_folder, str(installed.parent / "moetrace"), "--help")
    assert "Start with `moetrace demo`" in moetrace("--help")
    assert "jaccard" in moetrace("views")
    moetrace("import", "usage-json", "en=en.json", "sw=sw.json", "--store", "store", "--run", "counts")
    assert "counts" in moetrace("ls", "store")
    query = "select lang, sum(count)::int as n from usage group by lang order by lang"
    assert moetrace("sql", "store", query, "--format", "csv").split() == ["lang,n", "en,32", "sw,32"]
    moetrace("verify", "store")
    moetrace("export", "rise", "store", "--target", "sw", "--budget", "4", "--min-count", "0", "-o", "mask.json")
    found = run(
        installed,
        others_folder,
        "-c",
        "import moetrace\n"
        "from moetrace import Store, connect, read_mask\n"
        "print(len(read_mask('mask.json')['experts']), Store('store').languages('counts'))\n"
        "print(connect('store').sql('select count(*) from jaccard').fetchall())\n"
        "print(moetrace.__file__)",
    )
    assert found.splitlines()[:2] == ["4 ['en', 'sw']", "[(8,)]"]
    assert found.splitlines()[2].startswith(str(installed.parents[1]))


def test_vllm_finds_the_plugin_and_loads_nothing_by_it(installed: Path, others_folder: Path) -> None:
    program = """
import sys
from importlib.metadata import entry_points

(plugin,) = entry_points(group="vllm.general_plugins", name="moetrace")
assert plugin.value == "moetrace.tracer.recording.plugin:register"
assert callable(plugin.load())
heavy = {"torch", "transformers", "vllm", "pyarrow", "numpy", "duckdb"} & set(sys.modules)
assert not heavy, heavy
"""
    run(installed, others_folder, "-c", program)
