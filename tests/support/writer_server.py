"""Processes that tests start and kill, forked from one that has imported what they need: writers, mostly.

A start takes milliseconds instead of a second of imports, and the process is as real: it has its own environment and
output and dies of a SIGKILL. A request is a connection to the server's socket. The process's output goes there, its id
first; when it has ended, how it ended is the last line.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from moetrace.store.storage import faults
from tests.support.paths import ROOT

# NumPy and Arrow start threads where they are imported, and a process that has threads cannot be forked safely.
WITHOUT_THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class ForkedProcess:
    """A process that runs `module:function` of JSON arguments; it is waited for and killed as a subprocess.Popen is."""

    def __init__(
        self, job: str, *arguments: object, environment: dict[str, str] | None = None, fault: str = ""
    ) -> None:
        asked = {"job": job, "arguments": arguments}
        asked["environment"] = {**os.environ, **(environment or {}), "MOETRACE_FAULT": fault}
        self.returncode: int | None = None
        self._said, self._read = b"", 0
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server(job.partition(":")[0]))
        self._connection.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = int(self.readline())

    @property
    def said(self) -> str:
        """What the process has written, so far as it was taken in: all of it once it was waited for."""
        return self._said.decode(errors="replace")

    def fileno(self) -> int:
        """Return what becomes readable when the process writes or ends."""
        return self._connection.fileno()

    def readline(self) -> str:
        """Return the next line that the process writes; empty where it writes no more."""
        while b"\n" not in self._said[self._read :] and self._receive(None):
            pass
        line, newline, _ = self._said[self._read :].partition(b"\n")
        self._read += len(line + newline)
        return (line + newline).decode()

    def wait(self, timeout: float | None = None) -> int:
        """Return the process's exit status, -SIGKILL where it was killed; raise TimeoutExpired where it still runs."""
        if self.returncode is not None:
            return self.returncode
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._receive(deadline):
            pass
        ended = re.search(rb"ended (-?\d+)\n\Z", self._said)
        assert ended, f"the server of processes died:\n{self._said.decode()}"
        self.returncode = int(ended[1])
        self._connection.close()
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def take_in(self) -> bool:
        """Take in what a process that is readable has written; return whether it may write more, else wait for it."""
        return self._receive(None)

    def _receive(self, deadline: float | None) -> bool:
        """Take in what the process has written; return False where there is no more to come."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise subprocess.TimeoutExpired("a forked process", 0)
        self._connection.settimeout(left)
        try:
            content = self._connection.recv(1 << 16)
        except TimeoutError:
            raise subprocess.TimeoutExpired("a forked process", 0) from None
        self._said += content
        return bool(content)


class ForkedWriter(ForkedProcess):
    """A writer as in tests/support/writer_process.py."""

    def __init__(
        self, place: str, most: int | None = None, *, environment: dict[str, str] | None = None, fault: str = ""
    ) -> None:
        arguments = (place,) if most is None else (place, most)
        super().__init__("tests.support.writer_process:main", *arguments, environment=environment, fault=fault)

    def finish(self, timeout: float) -> int:
        """Wait for a process that must end well; return how many shards it did."""
        assert self.wait(timeout) == 0, self.said
        return int(self.said.split()[-3])  # before "ended 0"


@cache
def server(module: str) -> str:
    """Start this test session's server of a module's functions; return the path of its socket."""
    folder = TemporaryDirectory(prefix="writers")
    address = str(Path(folder.name) / "socket")
    environment = {**os.environ, **WITHOUT_THREADS, "MOETRACE_FAULT": ""}
    command = [sys.executable, "-m", "tests.support.writer_server", address, module]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    def stop() -> None:
        process.kill()
        process.wait()
        folder.cleanup()

    atexit.register(stop)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", "the server of processes did not start"
    return address


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks a process for each request, which forks the one that is asked for and waits for it."""

    request_queue_size = 64
    parent = os.getppid()

    def service_actions(self) -> None:
        """End with the test session, however it ended."""
        super().service_actions()
        if os.getppid() != self.parent:
            sys.exit()


class Request(socketserver.StreamRequestHandler):
    """One process."""

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        forked = os.fork()
        if forked == 0:
            os.dup2(self.connection.fileno(), 1)
            os.dup2(self.connection.fileno(), 2)
            become(**asked)
        _, status = os.waitpid(forked, 0)
        self.wfile.write(f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


def become(job: str, arguments: list[Any], environment: dict[str, str]) -> NoReturn:
    """Do what is asked for, and end this process."""
    status = 1
    try:
        sys.stdout.write(f"{os.getpid()}\n")
        os.environ.clear()
        os.environ.update(environment)
        faults.arm()
        module, _, function = job.partition(":")
        getattr(importlib.import_module(module), function)(*arguments)
        status = 0
    except BaseException:  # noqa: BLE001  whatever it is, the server's own code must not go on in this process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    importlib.import_module(sys.argv[2])
    for needed in ("pyarrow.parquet", "fsspec", "s3fs"):  # imported by writers where they need them
        with contextlib.suppress(ImportError):
            importlib.import_module(needed)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads cannot be forked safely"
    with Server(sys.argv[1], Request) as started:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        started.serve_forever()
