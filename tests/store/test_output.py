"""The file that -o names: whole or not there, and what was there before is kept until then."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moetrace.store.output import OutputError, write_bytes, write_text, written_whole

if TYPE_CHECKING:
    from collections.abc import Callable


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_written_and_replaces_another(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    for text in ("first\r\n", "second \N{SNOWMAN}"):
        write_text(target, text)
        assert target.read_bytes() == text.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_what_was_there_is_seen_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with written_whole(target) as path:
        assert path.parent == target.parent
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("x"), KeyboardInterrupt()]
)
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write() -> None:
        with written_whole(target) as path:
            path.write_text("half of the ne")
            raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        write()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, steps = tmp_path / "out.txt", []
    monkeypatch.setattr(os, "fsync", lambda _: steps.append(target.exists()))
    write_text(target, "x")
    assert steps == [False]
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match=r"out.txt: cannot be written \(No space left on device\)"):
        write_text(target, "y")
    assert target.read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nowhere/out.txt", "no such folder"),
        ("file/out.txt", "Not a directory"),
        ("folder", "it is a folder"),
        ("n" * 300, "File name too long"),
        ("\ud800/x", "surrogates not allowed"),
    ],
)
def test_where_nothing_can_be_written_one_line_says_why(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        write_bytes(tmp_path / place, b"x")
    assert str(caught.value).startswith(f"{tmp_path / place}: cannot be written (")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_text_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="surrogates not allowed"):
        write_text(tmp_path / "out.txt", "\ud800")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_a_full_device_is_one_line() -> None:
    with pytest.raises(OutputError, match=r"^/dev/full: cannot be written \(No space left on device\)$"):
        write_text("/dev/full", "x")
    assert not Path("/dev/full").is_file()


def test_a_pipe_is_written_to_itself(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert read == [b"through"]
    assert pipe.is_fifo()
    write_text(os.devnull, "x")
    assert Path(os.devnull).is_char_device()


def test_what_stdout_was_led_into_is_written_on_not_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a line\n")
    with log.open("a") as file:
        write_text(f"/dev/fd/{file.fileno()}", "another\n")
        file.write("a third\n")
    assert log.read_text() == "a line\nanother\na third\n"


def test_a_link_stays_one_and_permissions_stay_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), lambda path: write_bytes(path, b"x")])
def test_a_folder_that_takes_no_file_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(OutputError, match=r"cannot be written \(Read-only file system\)"):
        write(tmp_path / "out.txt")
    assert list(tmp_path.iterdir()) == []
