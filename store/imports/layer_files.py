"""The layer files of an ESFT task: found in a folder or an archive, surveyed, and read in step."""

from __future__ import annotations

import hashlib
import re
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from moetrace.store.errors import ImportFormatError
from moetrace.store.format.regular_file import open_regular, regular_size
from moetrace.store.imports.archive import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moetrace.store.progress import Progress

LAYER_FILE = re.compile(r"expert_weights_(0|[1-9][0-9]{0,3})[.]txt")
PIECE = 1 << 20  # bytes hashed at a time
MOST_LINE = 8 << 20  # bytes of one sequence at one layer: 140,000 tokens of six experts
MOST_FILES = 512  # layers of a task; the files of all of them are open together


@dataclass(frozen=True)
class LayerFile:
    """One layer's file; `name` is what messages call it: of a file that was unpacked, its place in the archive."""

    layer: int
    path: Path
    name: str

    @property
    def bytes(self) -> int:
        """Return the file's size; raise ImportFormatError where it is not a regular file that can be read."""
        with _as_import_errors(self):
            return regular_size(self.path)


@contextmanager
def layer_files(place: Path, progress: Progress) -> Iterator[tuple[LayerFile, ...]]:
    """Yield the layer files of a task's folder, or of its tar archive, by layer.

    What is unpacked is removed afterwards. Raises ImportFormatError where there is none, or several tasks.
    """
    with tempfile.TemporaryDirectory(prefix="moetrace-import-") as unpacked:
        folder = place
        if not place.is_dir():
            folder = Path(unpacked)
            unpack(place, folder, LAYER_FILE, progress)
        found = [
            LayerFile(int(match[1]), folder / name, f"{place}/{name}")
            for name in _names(folder, place)
            if (match := LAYER_FILE.fullmatch(name))
        ]
        if len(found) > MOST_FILES:
            raise ImportFormatError(f"{place}: {len(found):,} layer files, more than {MOST_FILES} layers of one model")
        if not found:
            raise ImportFormatError(f"{place}: no expert_weights_<layer>.txt in it; give the folder of one ESFT task")
        yield tuple(sorted(found, key=lambda file: file.layer))


def survey(files: Sequence[LayerFile], on_line: Callable[[bytes, int], None], progress: Progress) -> str:
    """Read every layer file once and return the SHA-256 of them all.

    `on_line` is told each line of the first file, and its number from 1. Raises ImportFormatError where another file
    has more lines, or fewer.
    """
    digest, first = hashlib.sha256(), files[0]
    lines = 0
    content = hashlib.sha256()
    with _as_import_errors(first), open_regular(first.path) as opened:
        while line := next_line(opened, first.name, lines + 1):
            lines += 1
            on_line(line, lines)
            content.update(line)
            progress.advance(len(line))
    if not lines:
        raise ImportFormatError(f"{first.name}, line 1: the file is empty")
    digest.update(f"{first.layer} {content.hexdigest()}\n".encode())
    for file in files[1:]:
        found, sha256 = _lines_and_digest(file, progress)
        if found != lines:
            raise ImportFormatError(
                f"{file.name}, line {min(found, lines) + 1}: the file has {found} lines, {first.name} has {lines}"
            )
        digest.update(f"{file.layer} {sha256}\n".encode())
    return digest.hexdigest()


def stamps(files: Sequence[LayerFile]) -> list[tuple[int, int, int]]:
    """Return what is another once a file is written to or replaced, of each file."""
    found = []
    for file in files:
        with _as_import_errors(file):
            status = file.path.stat()
        found.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return found


def next_line(opened: BinaryIO, name: str, number: int) -> bytes:
    """Return the next line, b"" at the end; raise ImportFormatError where it has more than MOST_LINE bytes."""
    line = opened.readline(MOST_LINE + 1)
    if len(line) > MOST_LINE:
        raise _too_long(name, number)
    return line


def _too_long(name: str, number: int) -> ImportFormatError:
    return ImportFormatError(f"{name}, line {number}: more than {MOST_LINE:,} bytes; a line is one sequence")


def _names(folder: Path, place: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError as error:
        raise ImportFormatError(f"{place}: cannot be read ({error.strerror or error})") from error


def _lines_and_digest(file: LayerFile, progress: Progress) -> tuple[int, str]:
    digest, lines, rest = hashlib.sha256(), 0, 0  # rest: bytes of the line that is not at its end
    with _as_import_errors(file), open_regular(file.path) as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
            ends = piece.count(b"\n")
            lines += ends
            rest = len(piece) - 1 - piece.rindex(b"\n") if ends else rest + len(piece)
            if rest > MOST_LINE:
                raise _too_long(file.name, lines + 1)
            progress.advance(len(piece))
    return lines + (rest > 0), digest.hexdigest()


@contextmanager
def _as_import_errors(file: LayerFile) -> Iterator[None]:
    """Make an ImportFormatError of one line of what the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise ImportFormatError(f"{file.name}: cannot be read ({error.strerror or error})") from error


class LayersInStep:
    """Reads a line of every layer file, then the next; used as a context."""

    def __init__(self, files: Sequence[LayerFile], progress: Progress) -> None:
        self.files = files
        self._progress, self._stack = progress, ExitStack()
        self._opened: list[BinaryIO] = []
        self._lines = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for file in self.files:
                with _as_import_errors(file):
                    self._opened.append(stack.enter_context(open_regular(file.path)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def next_lines(self) -> Iterator[tuple[LayerFile, bytes]]:
        """Yield the next line of each layer, by layer."""
        self._lines += 1
        for file, opened in zip(self.files, self._opened, strict=True):
            with _as_import_errors(file):
                line = next_line(opened, file.name, self._lines)
            self._progress.advance(len(line))
            yield file, line

    def skip(self, count: int) -> None:
        """Pass over some lines of every layer."""
        for _ in range(count):
            for _ in self.next_lines():
                pass
