"""The files of docs/cluster: manifests hold against Kubernetes' own schemas, tasks of the Slurm script share a run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from moetrace.cli.trace import trace
from tests.support.paths import ROOT
from tests.support.synthetic_job import RUN, SHAPE, committed, write_corpus

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "docs" / "cluster"
VERSION = kubernetes_validate.latest_version()


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def require_options(words: list[str]) -> None:
    """Let click parse a command as a person would type it."""
    assert words[:2] == ["moetrace", "trace"]
    trace.make_context("trace", words[2:])


def test_the_job_is_one_of_kubernetes() -> None:
    job = manifest("kubernetes-job.yaml")
    kubernetes_validate.validate(job, VERSION, strict=True)
    container = job["spec"]["template"]["spec"]["containers"][0]
    require_options([*container["command"], *container["args"]])
    job["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSION, strict=True)


def test_the_pods_of_kuberay_are_ones_of_kubernetes_and_its_command_is_ours() -> None:
    job = manifest("kuberay-job.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, VERSION, strict=True)
    require_options(job["spec"]["entrypoint"].split())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert cluster["workerGroupSpecs"][0]["replicas"] == 8
    pinned = [
        line for line in (ROOT / "requirements-cluster.lock").read_text().splitlines() if line.startswith("ray==")
    ]
    assert pinned == [f"ray=={cluster['rayVersion']}"]


def test_tasks_of_the_slurm_script_share_a_run(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "moetrace"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m moetrace.cli.main "$@"\n', encoding="ascii")
    program.chmod(0o755)
    job = {
        "MODEL": SHAPE,
        "CORPUS": str(write_corpus(tmp_path / "texts", texts=20)),
        "STORE": str(tmp_path / "store"),
        "RUN": RUN,
        "OPTIONS": "--engine synthetic --shard-tokens 256 --writers 1",
    }
    environment = {**os.environ, **job, "PATH": f"{program.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    tasks = [
        subprocess.Popen(
            ["/bin/bash", FOLDER / "slurm.sh"],
            env={**environment, "SLURM_ARRAY_TASK_ID": str(task)},
            stderr=subprocess.PIPE,
        )
        for task in range(2)
    ]
    said = [task.communicate(timeout=120)[1].decode() for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    shards = [
        int(line.split("tokens in ")[1].split(" shards")[0]) for line in said[0].splitlines() if "languages" in line
    ]
    assert committed(tmp_path / "store") == shards[0]


def test_an_option_that_is_none_would_be_seen() -> None:
    assert CliRunner().invoke(trace, ["x", "--corpus", "y", "--store", "z", "--worker-gpu", "1"]).exit_code == 2
