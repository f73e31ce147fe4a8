"""Archives of strangers: nothing but layer files is taken out of one, and no more than its size allows."""

from __future__ import annotations

import io
import lzma
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import ImportFormatError
from moetrace.store.imports import archive as unpacking
from moetrace.store.imports.archive import unpack
from moetrace.store.imports.layer_files import LAYER_FILE
from moetrace.store.progress import Progress
from tests.support.published import import_small, small_task

if TYPE_CHECKING:
    from pathlib import Path

LAYER = "task/expert_weights_1.txt"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.pax_headers = kind, link, pax
    return made


def write(file: Path, *members: tuple[tarfile.TarInfo, bytes], packed: str = "") -> Path:
    with tarfile.open(file, f"w:{packed}", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def refused(archive: Path) -> str:
    folder = archive.parent / "unpacked"
    folder.mkdir()
    with pytest.raises(ImportFormatError) as error:
        unpack(archive, folder, LAYER_FILE, Progress())
    assert str(error.value).startswith(f"{archive}: ")
    assert str(error.value).isprintable()
    return str(error.value).removeprefix(f"{archive}: ")


@pytest.mark.parametrize("packed", ["", "gz", "bz2", "xz"])
def test_layer_files_and_nothing_else_come_out(tmp_path: Path, packed: str) -> None:
    members = [(member(LAYER), b"x" * 100_000), (member("task/other.txt"), b"y"), (member("/expert_weights_2"), b"z")]
    file = write(tmp_path / "task.tar", *members, packed=packed)
    (tmp_path / "out").mkdir()
    unpack(file, tmp_path / "out", LAYER_FILE, Progress())
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        "expert_weights_1.txt": b"x" * 100_000
    }


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("name", [LAYER, "padding"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, packed: str, name: str) -> None:
    file = write(tmp_path / "bomb.tar", (member(name), b"\0" * (80 << 20)), packed=packed)
    assert file.stat().st_size < 1 << 20
    assert refused(file) == "unpacks to more than 67,108,864 bytes; unpack it, look, and name the folder"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_layer_file_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    file = write(tmp_path / "task.tar", (member(LAYER, kind, "/etc/passwd"), b""))
    assert refused(file) == "expert_weights_1.txt in it is a link or a device, not a regular file"


def test_the_same_layer_file_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "task.tar", (member(LAYER), b"one"), (member(LAYER), b"two"))
    assert refused(file) == "expert_weights_1.txt stands twice in it"


def test_names_of_members_are_told_in_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", (member(LAYER), b"x"), (member("a\nb\x1b[2J/expert_weights_2.txt"), b"x"))
    assert refused(file) == r"holds several tasks (a\nb\x1b[2J, task); unpack it and name one"


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (member("x" * 100_000), "a header of "),
        (member(LAYER, comment="x" * 100_000), "a header of "),
        (member("x", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), "a sparse file"),
        (member("x", **{"GNU.sparse.size": "5"}), "a sparse file"),
        (member("x", **{"GNU.sparse.map": "0,1"}), "a sparse file"),
        (member("x", tarfile.GNUTYPE_SPARSE), "a sparse file"),
    ],
)
def test_headers_that_take_memory_to_read_are_refused(tmp_path: Path, odd: tarfile.TarInfo, message: str) -> None:
    file = write(tmp_path / "task.tar", (member(LAYER), b"x"), (odd, b"3\n0\n1\n2\n"))
    assert refused(file).startswith(f"cannot be unpacked as a tar archive ({message}")


@pytest.mark.parametrize("size", ["-512", "-99999999"])
def test_a_size_below_zero_does_not_go_round_for_ever(tmp_path: Path, size: str) -> None:
    file = write(tmp_path / "task.tar", (member("x", size=size), b""), (member(LAYER), b"x"))
    assert refused(file) == "cannot be unpacked as a tar archive (a size below zero)"


def test_xz_that_wants_much_memory_is_refused(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.tar", (member(LAYER), b"x")).read_bytes()
    wide = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    (tmp_path / "task.tar.xz").write_bytes(lzma.compress(plain, filters=wide))
    assert refused(tmp_path / "task.tar.xz") == ("cannot be unpacked as a tar archive (Memory usage limit exceeded)")


def test_xz_in_several_streams_is_read_and_a_cut_one_refused(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    with tarfile.open(tmp_path / "plain.tar", "w") as archive:
        for file in sorted(task.iterdir()):
            archive.add(file, file.name)
    plain = (tmp_path / "plain.tar").read_bytes()
    packed = lzma.compress(plain[:700]) + b"\0" * 8 + lzma.compress(plain[700:])
    (tmp_path / "task.tar.xz").write_bytes(packed)
    import_small(tmp_path / "store", f"a={tmp_path / 'task.tar.xz'}")
    (tmp_path / "cut.tar.xz").write_bytes(packed[: len(packed) // 2])
    assert refused(tmp_path / "cut.tar.xz").startswith("cannot be unpacked as a tar archive")


def test_an_archive_of_many_members_takes_the_memory_of_one(tmp_path: Path) -> None:
    def peak(file: Path) -> int:
        tracemalloc.start()
        unpack(file, tmp_path, LAYER_FILE, Progress())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = (
        write(tmp_path / f"{count}.tar", *((member(f"{number}"), b"") for number in range(count)))
        for count in (100, 4000)
    )
    # The least of three: whatever else this process does meanwhile is measured as well.
    assert min(peak(many) for _ in range(3)) < 1.5 * min(peak(few) for _ in range(3))


def test_reading_is_bounded_whatever_it_unpacks_to(tmp_path: Path) -> None:
    (tmp_path / "bomb.xz").write_bytes(lzma.compress(b"\0" * (1 << 24)))
    with (tmp_path / "bomb.xz").open("rb") as raw:
        assert len(unpacking._decompressed(raw).read(1000)) <= 1000
