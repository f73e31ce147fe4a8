"""What runs in a process that tokenises for another one: parts in, tokens out, until the other end goes."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from moetrace.tracer.plan.kept import keep
from moetrace.tracer.plan.tokens import Tokens, tokenise

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.tracer.plan.prompts import Encode


def serve(descriptor: int) -> None:
    """Answer what comes through a socket until it is closed; then the process ends at once.

    First comes the function that encodes, pickled, then (number, name of the part's file or None, texts) of each part.
    The answers are (number, tokens, why they were not kept or None), or (number, what was raised, None).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides
    connection: Connection = Connection(descriptor)
    asked: SimpleQueue[tuple[int, Path | None, list[str]]] = SimpleQueue()
    pickled = connection.recv_bytes()
    # Reads while the other thread tokenises: who asks never waits for an answer to be taken, and is missed at once.
    Thread(target=_receive, args=(connection, asked), daemon=True).start()
    encode: Encode | None = None
    while True:
        number, file, texts = asked.get()
        failure = None
        answer: Tokens | Exception
        try:
            encode = encode or _loaded(pickled)
            answer = tokenise(encode, texts)
            failure = keep(file.parent, file.stem, answer) if file else None
        except Exception as error:  # noqa: BLE001  raised where the tokens are wanted
            answer = error
        try:
            message = pickle.dumps((number, answer, failure))
        except Exception:  # noqa: BLE001  an error that cannot be sent
            message = pickle.dumps((number, RuntimeError(repr(answer)), failure))
        connection.send_bytes(message)


def _receive(connection: Connection, asked: SimpleQueue[tuple[int, Path | None, list[str]]]) -> None:
    try:
        while True:
            asked.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _loaded(pickled: bytes) -> Encode:
    encode: Encode = pickle.loads(pickled)  # noqa: S301  from the process that started this one
    if "transformers" in sys.modules:
        from moetrace.tracer.model.transformers_logging import quiet_transformers  # noqa: PLC0415

        quiet_transformers()
    return encode
