"""Files of strangers are opened where they are files, and read up to a size."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from moetrace.store.format.regular_file import read_regular, regular_size

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_read_up_to_its_limit_through_a_link_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 5) == b"12345"
    assert regular_size(tmp_path / "link") == 5
    with pytest.raises(OSError, match=re.escape("more than the 4 bytes that are read")):
        read_regular(tmp_path / "file", 4)


def test_a_file_that_says_it_is_empty_is_read_no_further() -> None:
    with pytest.raises(OSError, match="more bytes than it says"):
        read_regular("/proc/self/maps", 10)


def test_a_file_with_a_hole_is_not_read_at_all(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than the 1,000 bytes"):
        read_regular(tmp_path / "hole", 1000)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("there")
    for place, why in (
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / "nowhere", "No such file"),
    ):
        with pytest.raises(OSError, match=why):
            read_regular(place, 10)
