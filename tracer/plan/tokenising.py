"""How the parts of a corpus become tokens: here, in processes beside this one, or from where they were kept."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections import deque
from dataclasses import dataclass
from time import process_time
from typing import TYPE_CHECKING, NamedTuple, Self

from moetrace.store.errors import MoetraceError
from moetrace.tracer.plan.kept import KeptParts, cache_folder, keep
from moetrace.tracer.plan.pool import AHEAD, Pool
from moetrace.tracer.plan.tokens import Tokens, tokenise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moetrace.tracer.plan.parts import Part
    from moetrace.tracer.plan.prompts import Encode, Encoder

log = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds of CPU: twice what a process takes to start


@dataclass(frozen=True)
class Effort:
    """What a corpus may take where it is large: where tokenising it took `patience` seconds of CPU in this process.

    - workers: processes that then go on with it; none: this one does
    - kept: where parts are kept from then on, and found; None: nowhere
    """

    workers: int = 0
    kept: KeptParts | None = None
    patience: float = PATIENCE

    @classmethod
    def of_machine(cls, encode: Encoder, folder: Path | None = None) -> Self:
        """Return the effort that plans are made with: a process a core, unless there is only one; parts are kept.

        folder: where they are kept, by default that of the user's cache
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        folder = folder or cache_folder()
        kept = None if folder is None else KeptParts(folder, encode.digest(), encode.vocabulary)
        return cls(cores if cores > 1 and sys.executable else 0, kept, PATIENCE)


NO_EFFORT = Effort()


class Tokenised(NamedTuple):
    """The ids of consecutive texts of a language, and their tokens."""

    lang: str
    text_ids: list[str]
    tokens: Tokens


class Tokeniser:
    """Turns parts into tokens in their order; a context manager, at whose end its processes end.

    tokenised, found: how many parts were tokenised, and how many were found where they were kept
    """

    def __init__(self, encode: Encode, effort: Effort = NO_EFFORT) -> None:
        self.tokenised = self.found = 0
        self._encode, self._effort, self._kept = encode, effort, effort.kept
        self._pool: Pool | None = None
        self._may_start = effort.workers > 0
        self._spent = 0.0
        self._early: list[tuple[str, Tokens]] | None = []  # not kept yet: maybe the corpus is small

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def run(self, parts: Iterator[Part]) -> Iterator[Tokenised]:
        """Yield the tokens of each part.

        Raises what reading and tokenising raise when all before it was yielded, so that the first error in the corpus
        is raised however many processes there are; MoetraceError where a process ends that should not.
        """
        waiting: deque[tuple[str, list[str], Tokens | tuple[int, str]]] = deque()  # without their texts, in memory
        failure: Exception | None = None
        ended = False
        while True:
            while not ended and self._takes_more(len(waiting)):
                try:
                    part = next(parts)
                except StopIteration:
                    ended = True
                except Exception as error:  # noqa: BLE001  raised below
                    failure, ended = error, True
                else:
                    waiting.append((part.lang, part.text_ids, self._begin(part)))
                    del part
            if not waiting:
                break
            lang, text_ids, begun = waiting.popleft()
            yield Tokenised(lang, text_ids, begun if isinstance(begun, Tokens) else self._answer(*begun))
        if failure is not None:
            raise failure

    def _takes_more(self, waiting: int) -> bool:
        """Tell whether to read on before the first of `waiting` parts is asked for."""
        if self._pool is None or not waiting:
            return not waiting
        return waiting < 2 * AHEAD * self._effort.workers and self._pool.has_room()

    def _begin(self, part: Part) -> Tokens | tuple[int, str]:
        """Return a part's tokens, or its number and name in the pool."""
        key = "" if self._kept is None else self._kept.key(part.texts)
        found = None if self._kept is None else self._kept.find(key, len(part.texts))
        if found is not None:
            self.found += 1
            return found
        self.tokenised += 1
        if self._spent >= self._effort.patience:
            self._expect_more()
        if self._pool is None:
            return self._here(key, part)
        file = None if self._kept is None else self._kept.folder / f"{key}.part"
        self._pool.submit(self.tokenised, file, part.texts)
        return self.tokenised, key

    def _here(self, key: str, part: Part) -> Tokens:
        started = process_time()
        tokens = tokenise(self._encode, part.texts)
        self._spent += process_time() - started
        if self._kept is not None:
            if self._early is None:
                self._kept.note(key, keep(self._kept.folder, key, tokens))
            else:
                self._early.append((key, tokens))
        return tokens

    def _answer(self, number: int, key: str) -> Tokens:
        if self._pool is None:
            raise RuntimeError("the tokeniser is closed")
        tokens, failure = self._pool.result(number)
        if self._kept is not None:
            self._kept.note(key, failure)
        return tokens

    def _expect_more(self) -> None:
        """Keep what is there and start processes, now that the corpus turned out to be large."""
        if self._early is not None and self._kept is not None:
            self._kept.sweep()
            for key, tokens in self._early:
                self._kept.note(key, keep(self._kept.folder, key, tokens))
        self._early = None
        if self._may_start:
            self._may_start = False
            try:
                self._pool = Pool(pickle.dumps(self._encode), self._effort.workers)
            except MoetraceError:
                raise
            except Exception as error:  # noqa: BLE001  tokenizers say in many ways that they cannot be pickled
                log.warning("the corpus is tokenised in one process: none can be started beside it (%s)", error)
