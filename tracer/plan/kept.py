"""Token ids of parts that are kept on disk, so that a plan that was killed need not be tokenised again.

A part's file is named by the sha256 of all that decides what is in it: whoever plans the same texts for the same
tokenizer finds it, and processes that do so at the same time share a folder without a lock.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moetrace.tracer.plan.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

FORMAT = b"moetrace-part-1\n"
DAYS = 7  # that a file is kept which nobody asks for
LEAST_FREE = 1 << 30  # bytes of the disk that are left free
FILE = re.compile(r"[0-9a-f]{64}\.(part|[^.]*\.tmp)")
DIGEST = 32  # bytes
NUMBER = np.dtype("<i4")


def cache_folder() -> Path | None:
    """Return the folder of kept parts: in MOETRACE_CACHE, XDG_CACHE_HOME or ~/.cache; None where there is no home."""
    own, common = os.environ.get("MOETRACE_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own).absolute() / "plans"
    if Path(common).is_absolute():
        return Path(common) / "moetrace" / "plans"
    try:
        return Path.home() / ".cache" / "moetrace" / "plans"
    except RuntimeError:
        return None


class KeptParts:
    """The kept parts of one tokenizer and prompt; nothing here raises: what cannot be kept is made again.

    digest: of all that decides the token ids of a text; vocabulary: the number that they are below
    """

    def __init__(self, folder: Path, digest: str, vocabulary: int) -> None:
        self.folder = folder
        self._digest, self._vocabulary = digest, vocabulary
        self._used: list[bytes] = []
        self._said = False

    def key(self, texts: Sequence[str]) -> str:
        """Return the name of a part with these texts."""
        encoded = [text.encode() for text in texts]
        sizes = np.array([len(text) for text in encoded], dtype="<i8").tobytes()
        return hashlib.sha256(b"".join([FORMAT, self._digest.encode(), sizes, *encoded])).hexdigest()

    def find(self, key: str, texts: int) -> Tokens | None:
        """Return a part of `texts` texts, None where it is not kept or its file is not whole, or somebody else's."""
        path = self.folder / f"{key}.part"
        try:
            content = _read(path)
            if content is None or (found := _parse(content, key, texts, self._vocabulary)) is None:
                log.info("%s: is no part as it was kept; it is made again", path)
                return None
            os.utime(path)
        except OSError:
            return None
        self._used.append(bytes.fromhex(key))
        return found

    def note(self, key: str, failure: str | None) -> None:
        """Learn that a part was kept, or why not; the first time is told."""
        if failure is None:
            self._used.append(bytes.fromhex(key))
        elif not self._said:
            log.warning(
                "%s: tokenised texts cannot be kept there (%s): a plan that is killed begins anew", self.folder, failure
            )
            self._said = True

    def sweep(self) -> None:
        """Remove files that nobody asked for in DAYS days."""
        oldest = time.time() - DAYS * 86_400
        try:
            for entry in os.scandir(self.folder):
                if FILE.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                    Path(entry.path).unlink(missing_ok=True)
        except OSError as error:
            log.info("%s: cannot be swept (%s)", self.folder, error)

    def remove(self) -> None:
        """Remove the parts that were found or kept."""
        for key in self._used:
            try:
                (self.folder / f"{key.hex()}.part").unlink(missing_ok=True)
            except OSError as error:
                log.info("%s: a part cannot be removed (%s)", self.folder, error)
                return
        self._used.clear()


def keep(folder: Path, key: str, tokens: Tokens) -> str | None:
    """Write a part's file, whole or not at all; return why it could not be written, None where it was."""
    content = _content(key, tokens)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < LEAST_FREE + len(content):
            return f"less than {LEAST_FREE >> 30} GiB would be left free"
        handle, name = tempfile.mkstemp(prefix=f"{key}.", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).replace(folder / f"{key}.part")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        return error.strerror or str(error)
    return None


def _content(key: str, tokens: Tokens) -> bytes:
    sizes = np.array([len(tokens.lengths), len(tokens.ids)], dtype="<i8").tobytes()
    arrays = [tokens.lengths.astype(NUMBER).tobytes(), tokens.ids.astype(NUMBER).tobytes()]
    content = b"".join([FORMAT, bytes.fromhex(key), sizes, *arrays])
    return content + hashlib.sha256(content).digest()


def _parse(content: bytes, key: str, texts: int, vocabulary: int) -> Tokens | None:
    """Return the tokens of a file's content, None where it is not what `_content` makes of such a part."""
    head = FORMAT + bytes.fromhex(key)
    body = len(head) + 16
    if not content.startswith(head) or len(content) < body + DIGEST:
        return None
    if hashlib.sha256(memoryview(content)[:-DIGEST]).digest() != content[-DIGEST:]:
        return None
    counts = np.frombuffer(content, "<i8", 2, len(head)).tolist()
    numbers = (len(content) - body - DIGEST) // NUMBER.itemsize
    if counts != [texts, numbers - texts] or (len(content) - body - DIGEST) % NUMBER.itemsize:
        return None
    lengths = np.frombuffer(content, NUMBER, texts, body).astype(np.int32)
    ids = np.frombuffer(content, NUMBER, numbers - texts, body + NUMBER.itemsize * texts).astype(np.int32)
    if (lengths < 0).any() or lengths.sum(dtype=np.int64) != len(ids):
        return None
    return None if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary else Tokens(lengths, ids)


def _read(path: Path) -> bytes | None:
    """Return the content of a regular file of this user, None of anything else; raise OSError where there is none."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    with open(path, "rb", opener=lambda name, wanted: os.open(name, wanted | flags)) as file:
        found = os.fstat(file.fileno())
        return file.read() if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() else None
