"""The layer files in a tar archive, unpacked within limits: of what may be in an archive, nothing else is touched."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol

from moetrace.store.errors import ImportFormatError
from moetrace.store.format.regular_file import open_regular
from moetrace.store.imports.quoting import shortened

if TYPE_CHECKING:
    import re
    from pathlib import Path

    from moetrace.store.progress import Progress

MOST_UNPACKED = 64 << 20  # bytes, and RATIO times the archive: routing packs to a third, or a tenth, of its text
RATIO = 100
LONGEST_HEADER = 1 << 16  # bytes of what a header says in a member of its own, such as a long name
MOST_SHARED = 64  # things that global headers say
XZ_MEMORY = 96 << 20  # bytes of a decoder; what `xz -9` packs takes 65 MiB
PIECE = 1 << 14

BROKEN = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, ArithmeticError, LookupError)


def unpack(archive: Path, folder: Path, wanted: re.Pattern[str], progress: Progress) -> None:
    """Copy the files of some name out of an archive into a folder; it is read once, front to back.

    Raises ImportFormatError for what is no tar archive, unpacks to more than MOST_UNPACKED and RATIO times its size,
    holds them in several folders or one of them twice, or as something else than a regular file.
    """
    try:
        with open_regular(archive) as raw:
            size = archive.stat().st_size
            progress.stage(f"unpacking {archive.name}", size)
            with tarfile.open(fileobj=_decompressed(raw), mode="r|", tarinfo=_Header) as members:  # type: ignore[call-overload]  # reads, no more
                _copy_members(members, raw, archive, folder, wanted, max(MOST_UNPACKED, RATIO * size), progress)
    except (*BROKEN, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ImportFormatError(f"{archive}: cannot be unpacked as a tar archive ({shortened(why)})") from error


def _copy_members(
    members: tarfile.TarFile,
    raw: BinaryIO,
    archive: Path,
    folder: Path,
    wanted: re.Pattern[str],
    most: int,
    progress: Progress,
) -> None:
    tasks, told = set[str](), 0
    while (member := members.next()) is not None:
        members.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
        if member.offset_data + member.size > most:
            raise ImportFormatError(
                f"{archive}: unpacks to more than {most:,} bytes; unpack it, look, and name the folder"
            )
        place = PurePosixPath(member.name)
        if wanted.fullmatch(place.name) and not member.isdir():
            tasks.add(str(place.parent))
            if len(tasks) > 1:
                named = ", ".join(shortened(task) for task in sorted(tasks))
                raise ImportFormatError(f"{archive}: holds several tasks ({named}); unpack it and name one")
            content = members.extractfile(member) if member.isreg() else None
            if content is None:
                raise ImportFormatError(f"{archive}: {place.name} in it is a link or a device, not a regular file")
            if (folder / place.name).exists():
                raise ImportFormatError(f"{archive}: {place.name} stands twice in it")
            with (folder / place.name).open("wb") as copy:
                shutil.copyfileobj(content, copy)
        progress.advance(raw.tell() - told)
        told = raw.tell()


class _Header(tarfile.TarInfo):
    """A member's header that takes little memory to read; what says more than that is refused."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError("a size below zero")
        return int(super()._block(count))  # type: ignore[misc]

    def _proc_member(self, members: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError("a size below zero")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        special = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if self.type in (*special, tarfile.SOLARIS_XHDTYPE) and self.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        if len(members.pax_headers) > MOST_SHARED:
            raise tarfile.ReadError("too many global headers")
        found: tarfile.TarInfo = super()._proc_member(members)  # type: ignore[misc]
        return found

    def _proc_gnusparse_00(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file")

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _decompressed(raw: BinaryIO) -> _Reader:
    """Return what reads an archive decompressed, and never more of it than it is asked for."""
    magic = raw.read(6)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    return _Xz(raw) if magic == b"\xfd7zXZ\x00" or magic.startswith(b"\x5d\x00\x00") else raw


class _Xz:
    """A file of xz, decompressed in limited memory; lzma.LZMAFile takes as much as the file asks for."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end; raise EOFError where the file ends too early."""
        while True:
            packed = b""
            if self._decoder.eof:
                packed = self._decoder.unused_data.lstrip(b"\0") or self._raw.read(PIECE).lstrip(b"\0")
                if not packed:
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            elif self._decoder.needs_input:
                packed = self._raw.read(PIECE)
                if not packed:
                    raise EOFError("it ends too early")
            if content := self._decoder.decompress(packed, size):
                return content
