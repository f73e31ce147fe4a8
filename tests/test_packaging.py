"""What an installation adds: `moetrace` and nothing else, complete, and safe from a folder with files of our names."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.masks import mask_of
from tests.support.paths import PACKAGES, ROOT, product_modules

if TYPE_CHECKING:
    from collections.abc import Iterable

DATA = {".css", ".html", ".js", ".json", ".jsonl", ".lock", ".md", ".py", ".safetensors", ".sql"}
LOCK = "requirements-cpu.lock"
OTHERS_FILES = ("store.py", "cli.py", "tracer.py", "analytics.py", "sql/__init__.py")


@dataclass(frozen=True)
class Built:
    """A source distribution and a wheel made from the tree, and a wheel made from the source distribution."""

    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


def build(tree: Path, output: Path, *what: str) -> None:
    """Run `python -m build` on a tree with the setuptools that is here."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(output), str(tree)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"
    tree.mkdir()
    for name in (*PACKAGES, "src"):
        shutil.copytree(
            ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", LOCK):
        shutil.copy(ROOT / name, tree)
    build(tree, folder / "both")  # the wheel by way of the source distribution, as for an upload
    build(tree, folder / "direct", "--wheel")
    (sdist,), (by_sdist,), (wheel,) = (
        folder.glob(pattern) for pattern in ("both/*.tar.gz", "both/*.whl", "direct/*.whl")
    )
    return Built(sdist, wheel, by_sdist)


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel but those about the wheel itself."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def needed(wheel: Path) -> dict[str, metadata.Distribution]:
    """The distributions, by name, that pip would install with a wheel and no extra, of what is installed here."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(archive.read(name).decode())
    return closure(about.get_all("Requires-Dist", []))


def closure(requirements: Iterable[str]) -> dict[str, metadata.Distribution]:
    """The distributions here, by name, that requirements bring and what they require; those not here are left out."""
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    todo = [(text, frozenset({""})) for text in requirements]
    while todo:
        text, extras = todo.pop()
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in extras)
        name = canonicalize_name(requirement.name)
        if not wanted or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        todo += [(each, frozenset({"", *requirement.extras})) for each in found[name].requires or ()]
    return found


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it and what `pip install` of it brings, and nothing else."""
    environment = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(built.wheel)], check=True, capture_output=True)
    (site,) = environment.glob("lib/python*/site-packages")
    for distribution in needed(built.wheel).values():
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))).absolute())
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


def test_the_wheel_has_the_lock_of_an_engine_on_a_cpu(built: Built) -> None:
    """Its place here is the top, where `make install` reads it; the package has a link to it."""
    assert (ROOT / "src" / "moetrace" / LOCK).resolve() == ROOT / LOCK
    assert contents(built.wheel)[f"moetrace/{LOCK}"] == (ROOT / LOCK).read_bytes()
    with tarfile.open(built.sdist) as archive:
        (member,) = (member for member in archive if member.name.endswith(LOCK))
        assert archive.extractfile(member).read() == (ROOT / LOCK).read_bytes()


def pins(lock: str) -> dict[str, str]:
    lines = [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_the_lock_has_what_an_engine_needs_and_nothing_else() -> None:
    """Whoever installs it gets no tools of development, which stand in requirements-dev.lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    engine = closure([*project["dependencies"], *extras["cpu"], *extras["train"]]).keys()
    of_engine, of_tools, of_ray = (pins(lock) for lock in (LOCK, "requirements-dev.lock", "requirements-cluster.lock"))
    assert sorted(of_engine) == sorted(engine), "what only development needs stands in requirements-dev.lock"
    assert not of_engine.keys() & of_tools.keys()
    assert closure(extras["dev"]).keys() <= of_engine.keys() | of_tools.keys() | of_ray.keys()
    assert all(version for version in (of_engine | of_tools).values())


def test_metadata_say_what_it_is(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(archive.read(name).decode())
        (licence,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload() == (ROOT / "README.md").read_text()
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(about.get_all("Classifier"))
    assert set(about.get_all("Provides-Extra")) >= {"cpu", "gpu", "train", "s3", "cluster"}
    assert len(about["Keywords"].split(",")) >= 5


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


IN_ONE_PROCESS = """
import contextlib, io, json, sys
from moetrace.cli.main import run

found = {}
for name, args in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(args)
    found[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
print(json.dumps(found))
"""


def outcomes(python: Path, folder: Path, commands: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What commands, by name, end with and print, run one after another by a Python in a folder."""
    words = {name: shlex.split(command) for name, command in commands.items()}
    found: dict[str, dict[str, Any]] = json.loads(run(python, folder, "-c", IN_ONE_PROCESS, json.dumps(words)))
    return found


@pytest.mark.parametrize(
    ("form", "files", "layers", "experts"),
    [
        ("usage-json", {"en": "qwen3-30b-a3b-mgsm/mgsm_en.json", "sw": "qwen3-30b-a3b-mgsm/mgsm_sw.json"}, 48, 128),
        ("esft", {"en": "esft-trace/intent.tar.xz", "sw": "esft-trace/summary.tar.xz"}, 26, 64),
    ],
)
def test_traces_that_others_published_go_all_the_way(
    form: str, files: dict[str, str], layers: int, experts: int, installed: Path, tmp_path: Path, shared_data: Path
) -> None:
    sources = " ".join(f"{lang}={shlex.quote(str(shared_data / file))}" for lang, file in files.items())
    model = " --model-id deepseek-ai/DeepSeek-V2-Lite" if form == "esft" else ""
    query = "select count(distinct layer) as layers, max(expert) as last, count(distinct lang) as langs from usage"
    found = outcomes(
        installed,
        tmp_path,
        {
            "import": f"import {form} {sources} --store store --run run{model}",
            "sql": f"sql store '{query}' --format json",
            "export": "export rise store --target sw --budget 64 -o mask.json",
            "report": "report store --mask mask.json -o report.html",
            "pdf": "plot isolation store -o isolation.pdf",
            "csv": "plot specificity store -o specificity.csv",
        },
    )
    assert {name: one["code"] for name, one in found.items()} == dict.fromkeys(found, 0), found
    assert json.loads(found["sql"]["out"]) == [{"layers": layers, "last": experts - 1, "langs": 2}]
    assert len(json.loads((tmp_path / "mask.json").read_text())["experts"]) == 64
    assert (tmp_path / "report.html").read_text().rstrip().endswith("</html>")
    assert (tmp_path / "isolation.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "specificity.csv").read_text().startswith("lang,layer,expert,")


NEED_AN_ENGINE = {
    "inspect": "inspect bundled",
    "trace": "trace bundled --corpus bundled --store store",
    "demo": "demo",
    "steer": "steer bundled --intervention mask.json --mode soft --lambda 1 --corpus bundled",
    "evaluate": "evaluate bundled --task bundled --no-controls",
    "inspect --corpus": "inspect bundled --corpus bundled",
    "synthetic": "trace bundled --corpus bundled --store store --engine synthetic",
    "train": "train mask.json --model bundled --corpus bundled -o trained",
    "merge": "merge experts.safetensors --model bundled -o merged",
}


def test_where_the_engine_is_missing_one_line_installs_it(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no driver of a GPU
    absent = "import importlib.util as u; print([u.find_spec(name) for name in ('vllm', 'torch', 'transformers')])"
    assert run(installed, tmp_path, "-c", absent) == "[None, None, None]\n"
    mask = mask_of([(1, 3), (2, 7)], moe_layers=range(8), num_experts=32, top_k=4)
    (tmp_path / "mask.json").write_text(json.dumps(mask))
    (tmp_path / "experts.safetensors").write_bytes(b"")
    found = outcomes(installed, tmp_path, NEED_AN_ENGINE)
    assert {name: one["code"] for name, one in found.items()} == {name: int(name != "inspect") for name in found}
    assert "32 a layer" in found["inspect"]["out"]
    commands, tasks = set(), {}
    for name, one in found.items():
        (line,) = (line for line in one["err"].splitlines() if "pip install" in line)
        commands.add(line.partition("for a CPU, ")[2])
        tasks[name] = line.partition(" needs ")[0].removeprefix("moetrace: ")
    assert tasks == dict.fromkeys(("inspect", "trace", "demo", "steer", "evaluate"), "running a model") | dict.fromkeys(
        ("inspect --corpus", "synthetic"), "reading a tokenizer"
    ) | dict.fromkeys(("train", "merge"), "training")
    python, *words = shlex.split(commands.pop())
    assert not commands
    assert Path(python).samefile(installed)
    assert words[:4] == ["-m", "pip", "install", "--no-deps"]
    assert Path(words[-1]).is_relative_to(installed.parents[1])
    assert Path(words[-1]).read_bytes() == (ROOT / LOCK).read_bytes()
    assert not (tmp_path / "store").exists()


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
