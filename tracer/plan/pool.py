"""Processes that tokenise parts beside this one."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from moetrace.tracer.plan.tokens import Tokens

AHEAD = 2  # parts that a process has: one under way, and one to go on with
FIRST = 8  # processes that are started at once; as many again whenever all of them have answered and all are busy
# The processes are the parallelism: threads in each would only take each other's cores.
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# Not multiprocessing's spawn, which runs the program of a person again, nor fork, which threads do not survive.
PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from {} import serve; serve(int(sys.argv[1]))"


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    parts: set[int] = field(default_factory=set)
    answered: bool = False


class Pool:
    """Processes that are given parts by number and asked for their tokens; `close` ends them, whatever they do."""

    def __init__(self, encode: bytes, most: int) -> None:
        """Start processes, at most `most` in the end; `encode` is pickled. Raises OSError where none starts."""
        self._encode, self._most = encode, most
        self._workers: list[_Worker] = []
        self._answers: dict[int, tuple[Tokens | Exception, str | None]] = {}
        self._start(min(most, FIRST))

    def has_room(self) -> bool:
        """Tell whether a process would take another part now or soon."""
        busy = all(len(worker.parts) >= AHEAD for worker in self._workers)
        if busy and len(self._workers) < self._most and all(worker.answered for worker in self._workers):
            self._start(min(len(self._workers), self._most - len(self._workers)))
            busy = False
        return not busy

    def submit(self, number: int, file: Path | None, texts: list[str]) -> None:
        """Give a part to the process that has the fewest; it also writes the tokens to `file`, where one is named.

        Raises MoetraceError where that process has ended.
        """
        worker = min(self._workers, key=lambda worker: len(worker.parts))
        worker.parts.add(number)
        self._send(worker, pickle.dumps((number, file, texts)))

    def result(self, number: int) -> tuple[Tokens, str | None]:
        """Wait for the tokens of a part, and why they could not be kept (None where they were, or should not be).

        Raises what tokenising it raised, and MoetraceError where a process has ended.
        """
        while number not in self._answers:
            for ready in wait([worker.connection for worker in self._workers]):
                self._receive(next(worker for worker in self._workers if worker.connection is ready))
        answer, failure = self._answers.pop(number)
        if isinstance(answer, Exception):
            raise answer
        return answer, failure

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
        self._workers.clear()

    def _start(self, count: int) -> None:
        started: list[_Worker] = []
        for _ in range(count):
            mine, theirs = Pipe()
            with theirs:
                program = PROGRAM.format(f"{__package__}.worker")
                command = [sys.executable, "-c", program, str(theirs.fileno()), json.dumps(sys.path)]
                try:
                    process = subprocess.Popen(  # noqa: S603  this program's own module
                        command,
                        pass_fds=[theirs.fileno()],
                        env={**os.environ, **ONE_THREAD},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        process_group=0,  # Ctrl-C is this process's to answer
                    )
                except OSError:
                    mine.close()
                    if not (self._workers or started):
                        raise
                    self._most = len(self._workers) + len(started)  # the machine gives no more
                    break
            started.append(_Worker(process, mine))
        self._workers += started
        for worker in started:
            self._send(worker, self._encode)

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.connection.send_bytes(message)
        except OSError as error:
            raise self._ended(worker) from error

    def _receive(self, worker: _Worker) -> None:
        try:
            number, answer, failure = worker.connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended(worker) from error
        worker.parts.discard(number)
        worker.answered = True
        self._answers[number] = answer, failure

    @staticmethod
    def _ended(worker: _Worker) -> MoetraceError:
        worker.connection.close()
        try:
            status = worker.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return MoetraceError(
            f"a process that tokenises the corpus {how}; where memory ran out, give the command fewer cores "
            "(taskset -c 0-3); what was tokenised before is kept for the next time"
        )
