"""What plans are made of in tests: a corpus that is read without `datasets`, and functions that encode.

Other processes can load these: slow ones, ones that keep a log, ones that die.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.tracer.corpus.corpus import Corpus
from moetrace.tracer.corpus.fields import Text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLY = "kill me"
REFUSED = "refuse me"


@dataclass(frozen=True)
class Letters:
    """Encodes a text as its characters, in Python; logs each call as a line with the number of its process."""

    log: Path | None = None
    seconds: float = 0.0

    def __call__(self, texts: list[str]) -> list[list[int]]:
        if DEADLY in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        if REFUSED in texts:
            raise ValueError("a text that cannot be encoded")
        time.sleep(self.seconds)
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{os.getpid()}\n")
        return [[ord(letter) for letter in text.strip("-")] for text in texts]

    def calls(self) -> list[int]:
        """The processes that were called, in order, once a call."""
        assert self.log is not None
        return list(map(int, self.log.read_text(encoding="utf-8").split())) if self.log.exists() else []


def lines_corpus(folder: Path) -> Corpus:
    """The corpus of a folder of JSON lines."""

    def texts(lang: str) -> Iterator[Text]:
        with (folder / f"{lang}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                yield Text(**json.loads(line))

    return Corpus(str(folder), tuple(sorted(file.stem for file in folder.glob("*.jsonl"))), texts)
