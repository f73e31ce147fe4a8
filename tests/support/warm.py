"""Runs modules in forks of a process that has imported vLLM, each as `python -m MODULE ARGUMENTS` would run it.

Importing vLLM takes longer than starting an engine, and is done once here. Each run is a process of its own, with an
engine, caches, signals and memory of its own: it may crash or be killed, and no other notices.

`python -m tests.support.warm` is the process that is forked. It reads a run a line, as JSON (`id`, `module`,
`arguments`, `output`), and answers twice: with the run's `process`, and with its `status` and `peak` when it has ended.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# What an engine imports when it starts takes as long as importing vLLM itself.
IMPORTS = (
    "moetrace.cli.trace",
    "moetrace.tracer.model.replay",
    "moetrace.tracer.runs.trace",
    "moetrace.tracer.worker.worker",
    "transformers.modeling_layers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.entrypoints.llm",
    "vllm.model_executor.layers.fused_moe.experts.cpu_moe",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.model_executor.models.transformers",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
)
POLL = 0.02  # seconds between looks at which runs have ended


class Run:
    """A run under way: its process, and what it has printed and left when it has ended."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._started, self._ended = threading.Event(), threading.Event()
        self._process = self.status = self.peak = 0

    @property
    def process(self) -> int:
        """The id of its process."""
        assert self._started.wait(120), "the process that is forked does not answer"
        return self._process

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def signal(self, number: int) -> None:
        os.kill(self.process, number)

    def wait(self, timeout: float = 600) -> int:
        """Wait for its end and return its exit status, negative where a signal ended it."""
        assert self._ended.wait(timeout), f"still running after {timeout} s: {self.stderr}"
        return self.status

    @property
    def stdout(self) -> str:
        return self._output.with_suffix(".out").read_text()

    @property
    def stderr(self) -> str:
        return self._output.with_suffix(".err").read_text()

    def hear(self, answer: dict[str, int]) -> None:
        """Take an answer of the process that is forked."""
        if "process" in answer:
            self._process = answer["process"]
            self._started.set()
        else:
            self.status, self.peak = answer["status"], answer["peak"]
            self._ended.set()


class WarmProcess:
    """The process that is forked; each run has one thread. `close` ends it and every run."""

    def __init__(self, folder: Path) -> None:
        """Start it; what its runs print goes to `folder`."""
        self._folder = folder
        self._runs: list[Run] = []
        self._lock = threading.Lock()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, module: str, *arguments: object) -> Run:
        """Run a module, as `python -m` would."""
        with self._lock:
            number = len(self._runs)
            output = self._folder / str(number)
            self._runs.append(Run(output))
            order = {"id": number, "module": module, "arguments": list(map(str, arguments)), "output": str(output)}
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            return self._runs[number]

    def run_all(self, module: str, every: Iterable[Sequence[object]]) -> list[Run]:
        """Run a module once for each of `every`, its arguments, one run a core at a time; return the runs, ended."""

        def run(arguments: Sequence[object]) -> Run:
            started = self.start(module, *arguments)
            started.wait()
            return started

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(run, every))

    def close(self) -> None:
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            answer = json.loads(line)
            self._runs[answer["id"]].hear(answer)


def import_engine() -> None:
    """Import what every engine needs, and do what vLLM does once in a process."""
    from moetrace.tracer.engine.settings import require_engine

    require_engine()
    for module in IMPORTS:
        importlib.import_module(module)
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging_if_needed
    from vllm.model_executor.models import registry
    from vllm.platforms import current_platform
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    configure_logging_if_needed(LoggingConfig())
    current_platform.register_triton_kernel_overrides()  # it searches every module that was imported
    current_platform.register_triton_kernel_overrides = lambda: None
    assert callable(registry._run_in_subprocess)  # for the sake of GPUs; it imports vLLM again for every architecture
    registry._run_in_subprocess = lambda function: function()
    gc.freeze()  # vLLM collects garbage several times an engine: not among what was imported


def run_here(module: str, arguments: list[str], output: str) -> NoReturn:
    """Become the run: stdout and stderr are files, and __main__ is its module. End when it ends.

    Without the interpreter's own end, which takes seconds to clear what the run shares with the process it comes from.
    """
    for descriptor, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{suffix}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [module, *arguments]
    status = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
    threading._shutdown()  # waits for threads, as the interpreter does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Fork a run for every line that is read, until there are no more; tell of each run's end."""
    import_engine()
    running: dict[int, int] = {}

    def answer(**fields: Any) -> None:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()

    while True:
        if select.select([sys.stdin], [], [], POLL)[0]:
            line = os.read(0, 1)  # unbuffered, so that no line is read that `select` will not tell of
            while line and not line.endswith(b"\n"):
                line += os.read(0, 1)
            if not line:
                return
            order = json.loads(line)
            process = os.fork()
            if not process:
                run_here(order["module"], order["arguments"], order["output"])
            running[process] = order["id"]
            answer(id=order["id"], process=process)
        while running:
            process, status, usage = os.wait4(-1, os.WNOHANG)
            if not process:
                break
            answer(id=running.pop(process), status=os.waitstatus_to_exitcode(status), peak=usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
