"""Writers as in tests/support/writer_process.py, forked from a process that has imported what they need.

A start takes milliseconds instead of a second of imports, and the process is as real: it has its own environment and
output and dies of a SIGKILL. A request is a connection to the server's socket. The writer's output goes there, its
process id first; when it has ended, how it ended is the last line.
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
from typing import NoReturn

from moetrace.store.storage import faults
from tests.support import writer_process
from tests.support.paths import ROOT

# NumPy and Arrow start threads where they are imported, and a process that has threads cannot be forked safely.
WITHOUT_THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


class ForkedWriter:
    """A writer's process; it is waited for and killed as a subprocess.Popen is."""

    def __init__(
        self, place: str, most: int | None = None, *, environment: dict[str, str] | None = None, fault: str = ""
    ) -> None:
        asked = {"place": place, "most": most}
        asked["environment"] = {**os.environ, **(environment or {}), "MOETRACE_FAULT": fault}
        self.returncode: int | None = None
        self._said, self._read = b"", 0
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server())
        self._connection.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = int(self.readline())

    def readline(self) -> str:
        """Return the next line that the process writes; empty where it writes no more."""
        while b"\n" not in self._said[self._read :] and self._receive(None):
            pass
        line, newline, _ = self._said[self._read :].partition(b"\n")
        self._read += len(line + newline)
        return (line + newline).decode()

    def wait(self, timeout: float | None = None) -> int:
        """Return the process's exit status, -SIGKILL where it was killed; raise TimeoutExpired where it still runs."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._receive(deadline):
            pass
        ended = re.search(rb"ended (-?\d+)\n\Z", self._said)
        assert ended, f"the server of writers died:\n{self._said.decode()}"
        self.returncode = int(ended[1])
        return self.returncode

    def finish(self, timeout: float) -> int:
        """Wait for a process that must end well; return how many shards it did."""
        assert self.wait(timeout) == 0, self._said.decode()
        return int(self._said.split()[-3])  # before "ended 0"

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _receive(self, deadline: float | None) -> bool:
        """Take in what the process has written; return False where there is no more to come."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise subprocess.TimeoutExpired("a writer", 0)
        self._connection.settimeout(left)
        try:
            content = self._connection.recv(1 << 16)
        except TimeoutError:
            raise subprocess.TimeoutExpired("a writer", 0) from None
        self._said += content
        return bool(content)


@cache
def server() -> str:
    """Start this test session's server; return the path of its socket."""
    folder = TemporaryDirectory(prefix="writers")
    address = str(Path(folder.name) / "socket")
    environment = {**os.environ, **WITHOUT_THREADS, "MOETRACE_FAULT": ""}
    command = [sys.executable, "-m", "tests.support.writer_server", address]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    def stop() -> None:
        process.kill()
        process.wait()
        folder.cleanup()

    atexit.register(stop)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", "the server of writers did not start"
    return address


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks a process for each request, which forks the writer and waits for it."""

    request_queue_size = 64
    parent = os.getppid()

    def service_actions(self) -> None:
        """End with the test session, however it ended."""
        super().service_actions()
        if os.getppid() != self.parent:
            sys.exit()


class Request(socketserver.StreamRequestHandler):
    """One writer."""

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        writer = os.fork()
        if writer == 0:
            os.dup2(self.connection.fileno(), 1)
            os.dup2(self.connection.fileno(), 2)
            become_writer(**asked)
        _, status = os.waitpid(writer, 0)
        self.wfile.write(f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


def become_writer(place: str, most: int | None, environment: dict[str, str]) -> NoReturn:
    """Write all shards, as tests.support.writer_process does, and end this process."""
    status = 1
    try:
        sys.stdout.write(f"{os.getpid()}\n")
        os.environ.clear()
        os.environ.update(environment)
        faults.arm()
        writer_process.main(place, most)
        status = 0
    except BaseException:  # noqa: BLE001  whatever it is, the server's own code must not go on in this process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    for needed in ("pyarrow.parquet", "fsspec", "s3fs"):  # imported by writers where they need them
        with contextlib.suppress(ImportError):
            importlib.import_module(needed)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads cannot be forked safely"
    with Server(sys.argv[1], Request) as started:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        started.serve_forever()
