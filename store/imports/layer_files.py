"""The layer files of an ESFT task: found in a folder or an archive, surveyed, and read in step."""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import tarfile
import tempfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Self

from moetrace.store.errors import ImportFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moetrace.store.progress import Progress

LAYER_FILE = re.compile(r"expert_weights_(0|[1-9][0-9]{0,3})[.]txt")
PIECE = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class LayerFile:
    """One layer's file; `name` is what messages call it: of a file that was unpacked, its place in the archive."""

    layer: int
    path: Path
    name: str

    @property
    def bytes(self) -> int:
        """Return the file's size."""
        return self.path.stat().st_size


@contextmanager
def layer_files(place: Path, progress: Progress) -> Iterator[tuple[LayerFile, ...]]:
    """Yield the layer files of a task's folder, or of its tar archive, by layer.

    What is unpacked is removed afterwards. Raises ImportFormatError where there is none, or several tasks.
    """
    with tempfile.TemporaryDirectory(prefix="moetrace-import-") as unpacked:
        if not place.is_dir():
            _unpack(place, Path(unpacked), progress)
        folder = place if place.is_dir() else Path(unpacked)
        found = [
            LayerFile(int(match[1]), path, f"{place}/{path.name}")
            for path in folder.iterdir()
            if (match := LAYER_FILE.fullmatch(path.name))
        ]
        if not found:
            raise ImportFormatError(f"{place}: no expert_weights_<layer>.txt in it; give the folder of one ESFT task")
        yield tuple(sorted(found, key=lambda file: file.layer))


def _unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Copy the layer files out of an archive that is read once, front to back; nothing else in it is touched."""
    progress.stage(f"unpacking {archive.name}", archive.stat().st_size)
    tasks = set[str]()
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as members:
            told = 0
            for member in members:
                place = PurePosixPath(member.name)
                content = members.extractfile(member) if LAYER_FILE.fullmatch(place.name) else None
                if content is not None:
                    tasks.add(str(place.parent))
                    with (folder / place.name).open("wb") as copy:
                        shutil.copyfileobj(content, copy)
                progress.advance(raw.tell() - told)
                told = raw.tell()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ImportFormatError(f"{archive}: cannot be unpacked as a tar archive ({error})") from error
    if len(tasks) > 1:
        raise ImportFormatError(f"{archive}: holds several tasks ({', '.join(sorted(tasks))}); unpack it and name one")


def survey(files: Sequence[LayerFile], on_line: Callable[[bytes, int], None], progress: Progress) -> str:
    """Read every layer file once and return the SHA-256 of them all.

    `on_line` is told each line of the first file, and its number from 1. Raises ImportFormatError where another file
    has more lines, or fewer.
    """
    digest, first = hashlib.sha256(), files[0]
    lines = 0
    content = hashlib.sha256()
    with _as_import_errors(first), first.path.open("rb") as opened:
        for lines, line in enumerate(opened, start=1):
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


def _lines_and_digest(file: LayerFile, progress: Progress) -> tuple[int, str]:
    digest, lines, last = hashlib.sha256(), 0, b"\n"
    with _as_import_errors(file), file.path.open("rb") as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
            lines += piece.count(b"\n")
            last = piece[-1:]
            progress.advance(len(piece))
    return lines + (last != b"\n"), digest.hexdigest()


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

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._opened = [stack.enter_context(file.path.open("rb")) for file in self.files]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def next_lines(self) -> Iterator[tuple[LayerFile, bytes]]:
        """Yield the next line of each layer, by layer."""
        for file, opened in zip(self.files, self._opened, strict=True):
            with _as_import_errors(file):
                line = opened.readline()
            self._progress.advance(len(line))
            yield file, line

    def skip(self, count: int) -> None:
        """Pass over some lines of every layer."""
        for _ in range(count):
            for _ in self.next_lines():
                pass
