"""Everything of vLLM that the tap relies on is there, by name: what a new version renames is what this test says."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker import contacts
from moetrace.tracer.worker.contacts import CONTACTS, INSTANCE_CONTACTS

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.tracer.engine.engine import TracedEngine

WITHOUT_VLLM = (
    "contacts",
    "modes",
    "steps",
    "rows",
    "buffers",
    "transfer",
    "assembly",
    "recorder",
    "cpu_fixes",
    "outside",
)


def make_vllm(folder: Path, without: str = "") -> None:
    """Write a package `vllm` that has all contacts and nothing else, but not the module `without`."""
    modules: dict[str, dict[str, list[str]]] = {}
    for contact in CONTACTS:
        module, _, path = contact.partition(":")
        name, _, attribute = path.partition(".")
        modules.setdefault(module, {}).setdefault(name, []).append(attribute)
    for module, classes in modules.items():
        if module == without:
            continue
        place = folder
        for part in module.split("."):
            place /= part
            place.mkdir(exist_ok=True)
            (place / "__init__.py").touch()
        lines = []
        for name, attributes in classes.items():
            lines += [f"class {name}:", *(f"    {attribute or 'here'} = None" for attribute in attributes)]
        with (place / "__init__.py").open("a") as file:
            file.write("\n".join(lines) + "\n")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where `vllm` is the package in `folder`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_vllm_that_lacks_a_module_is_refused_in_one_line_by_the_names_of_what_was_in_it(tmp_path: Path) -> None:
    module = "vllm.v1.worker.gpu_model_runner"
    make_vllm(tmp_path, without=module)
    lost = [contact for contact in CONTACTS if contact.startswith(f"{module}:")]
    assert len(lost) == 2
    trace = ("trace", "bundled", "--corpus", "bundled", "--limit", "1", "--store", str(tmp_path / "store"))
    done = python(tmp_path, "-m", "moetrace.cli.main", *trace)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    refusal = done.stderr.strip().splitlines()[-1]
    assert f"is not supported: it lacks {', '.join(lost)}; install the version" in refusal


TRACED = "from moetrace import traced; traced(None).__enter__()"
SERVED = (
    "from vllm.engine.arg_utils import EngineArgs; from moetrace.tracer.recording.plugin import register; register(); "
    "arguments = EngineArgs(); arguments.worker_cls = 'auto'; arguments.create_engine_config()"
)


@pytest.mark.parametrize("code", [TRACED, SERVED], ids=["traced", "served"])
def test_somebodys_own_engine_is_refused_by_the_same_names(code: str, tmp_path: Path) -> None:
    make_vllm(tmp_path, without="vllm.v1.worker.gpu_model_runner")
    recorded = f"import os; os.environ['MOETRACE_STORE'] = {str(tmp_path / 'store')!r}; {code}"
    done = python(tmp_path, "-c", recorded)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("moetrace.store.errors.MoetraceError: ")
    assert "it lacks vllm.v1.worker.gpu_model_runner:GPUModelRunner.get_model" in said
    assert not (tmp_path / "store").exists()


def test_of_a_vllm_with_every_name_nothing_is_missing(tmp_path: Path) -> None:
    make_vllm(tmp_path)
    code = "import vllm; from moetrace.tracer.worker import contacts; print(vllm.__file__, contacts.missing_contacts())"
    assert python(tmp_path, "-c", code).stdout == f"{tmp_path}/vllm/__init__.py []\n"


def test_what_names_the_contacts_imports_no_vllm(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("raise RuntimeError('vllm was imported')\n")
    code = "; ".join(f"import moetrace.tracer.worker.{name}" for name in WITHOUT_VLLM)
    done = python(tmp_path, "-c", f"{code}; import moetrace.tracer.recording.attach, moetrace.tracer.recording.plugin")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.engine
@pytest.mark.parametrize(
    "contact",
    [
        "vllm.config:VllmConfig.renamed",
        "vllm.no_such_module:Thing",
        "vllm.model_executor.layers.fused_moe.router.base_router:BaseRouter._compute_routing_v9",
    ],
)
def test_a_version_that_lacks_one_is_refused_by_its_name(contact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import read_facts

    monkeypatch.setattr(contacts, "CONTACTS", (*CONTACTS, contact))
    with pytest.raises(MoetraceError, match=rf"is not supported: it lacks {contact}; install the version"):
        TracedEngine(read_facts(str(MODEL)), EngineSettings(max_model_len=256))


@pytest.mark.engine
def test_what_only_instances_have_is_there(engine: TracedEngine) -> None:
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    worker = engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    runner = worker.model_runner
    module = next(module for module in runner.get_model().modules() if isinstance(module, MoERunner))
    instances = {"MoERunner": module, "BaseRouter": module.router, "Worker": worker, "GPUModelRunner": runner}
    assert instances.keys() == INSTANCE_CONTACTS.keys()
    for kind, names in INSTANCE_CONTACTS.items():
        for name in names:
            found: Any = instances[kind]
            for part in name.split("."):
                assert hasattr(found, part), f"{kind}.{name}"
                found = getattr(found, part)
