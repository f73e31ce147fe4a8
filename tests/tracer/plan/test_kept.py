"""Kept parts are found by what is in them, and a file that is not whole, or not ours, is as if it were not there."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.tracer.plan import kept as kept_module
from moetrace.tracer.plan.kept import DAYS, KeptParts, cache_folder, keep
from moetrace.tracer.plan.tokens import Tokens
from tests.support.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = ["ab", "c", ""]
TOKENS = Tokens(np.array([2, 1, 0], np.int32), np.array([7, 0, 99], np.int32))
HEAD = 16 + 32  # bytes before the numbers


def parts(folder: Path, digest: str = "one") -> KeptParts:
    return KeptParts(folder, digest, 100)


def kept(folder: Path, tokens: Tokens = TOKENS) -> Path:
    key = parts(folder).key(TEXTS)
    assert keep(folder, key, tokens) is None
    return folder / f"{key}.part"


def found(folder: Path) -> Tokens | None:
    return parts(folder).find(parts(folder).key(TEXTS), len(TEXTS))


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = kept(tmp_path / "new" / "plans")
    again = found(path.parent)
    assert again is not None
    assert (again.lengths.dtype, again.ids.dtype) == (np.int32, np.int32)
    assert (again.lengths.tolist(), again.ids.tolist()) == ([2, 1, 0], [7, 0, 99])
    assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_key_is_of_the_texts_where_each_ends_and_of_what_encodes(tmp_path: Path) -> None:
    lists = [["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], ["c", "ab"]]
    keys = {parts(tmp_path, digest).key(texts) for texts in lists for digest in ("one", "two")}
    assert len(keys) == 10


def sealed(content: bytes) -> bytes:
    """Content with the right checksum: a stranger can make one, too."""
    return content + hashlib.sha256(content).digest()


def numbers(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def counts(texts: int, tokens: int) -> bytes:
    return np.array([texts, tokens], dtype="<i8").tobytes()


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "half of it": lambda content: content[: len(content) // 2],
    "a byte more": lambda content: content + b"\0",
    "a flipped bit": lambda content: content[:70] + bytes([content[70] ^ 1]) + content[71:],
    "of another format": lambda content: sealed(b"moetrace-part-2\n" + content[16:-32]),
    "of other texts": lambda content: sealed(content[:16] + bytes(32) + content[48:-32]),
    "an id above all": lambda c: sealed(c[:HEAD] + counts(3, 3) + numbers(2, 1, 0, 7, 0, 100)),
    "an id below 0": lambda c: sealed(c[:HEAD] + counts(3, 3) + numbers(2, 1, 0, 7, -1, 9)),
    "a length below 0": lambda c: sealed(c[:HEAD] + counts(3, 3) + numbers(4, -1, 0, 7, 0, 9)),
    "lengths that wrap round": lambda c: sealed(c[:HEAD] + counts(3, 3) + numbers(2**31 - 1, 2**31 - 1, 5, 7, 0, 9)),
    "fewer tokens than lengths": lambda c: sealed(c[:HEAD] + counts(3, 2) + numbers(2, 1, 0, 7, 0)),
    "one text fewer": lambda c: sealed(c[:HEAD] + counts(2, 4) + numbers(2, 1, 0, 7, 0, 9)),
    "counts beyond the file": lambda c: sealed(c[:HEAD] + counts(3, 2**62) + numbers(2, 1, 0, 7, 0, 9)),
    "counts below 0": lambda c: sealed(c[:HEAD] + counts(-3, 9) + numbers(2, 1, 0, 7, 0, 9)),
    "no number's size": lambda c: sealed(c[:HEAD] + counts(3, 3) + numbers(2, 1, 0, 7, 0, 9) + b"\0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_file_is_ignored_and_made_again(tmp_path: Path, name: str) -> None:
    path = kept(tmp_path)
    path.write_bytes(HOSTILE[name](path.read_bytes()))
    assert found(tmp_path) is None
    kept(tmp_path)
    assert found(tmp_path) is not None


@given(st.binary(max_size=200), st.booleans())
@examples(60)
def test_any_bytes_are_ignored(tmp_path_factory: pytest.TempPathFactory, body: bytes, whole: bool) -> None:  # noqa: FBT001
    folder = tmp_path_factory.mktemp("kept")
    path = kept(folder)
    path.write_bytes(sealed(path.read_bytes()[:HEAD] + body) if whole else body)
    assert found(folder) is None


def test_what_is_no_file_of_this_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(tmp_path)
    real = path.rename(tmp_path / "elsewhere")
    path.symlink_to(real)
    assert found(tmp_path) is None, "a link"
    path.unlink()
    os.mkfifo(path)
    assert found(tmp_path) is None, "a pipe, which is not waited for"
    path.unlink()
    path.mkdir()
    assert found(tmp_path) is None, "a folder"
    path.rmdir()
    real.rename(path)
    assert found(tmp_path) is not None
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert found(tmp_path) is None, "another user's"


def test_old_files_are_swept_and_others_are_not(tmp_path: Path) -> None:
    old = time.time() - DAYS * 86_400 - 60
    path = kept(tmp_path)
    abandoned, other, link = tmp_path / f"{'0' * 64}.x_1.tmp", tmp_path / "notes.txt", tmp_path / f"{'1' * 64}.part"
    target = tmp_path / "target"
    for file in (abandoned, other, target):
        file.write_text("")
        os.utime(file, (old, old))
    link.symlink_to(target)
    os.utime(link, (old, old), follow_symlinks=False)
    os.utime(path, (old, old))
    assert found(tmp_path) is not None, "asked for, so it is not old any more"
    parts(tmp_path).sweep()
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "notes.txt", "target"}
    parts(tmp_path / "none").sweep()


def test_only_what_was_used_is_removed(tmp_path: Path) -> None:
    path, mine = kept(tmp_path), parts(tmp_path)
    other = mine.key(["other"])
    assert keep(tmp_path, other, TOKENS) is None
    mine.remove()
    assert path.exists()
    assert mine.find(path.stem, 3) is not None
    mine.remove()
    assert [file.stem for file in tmp_path.iterdir()] == [other]


def test_what_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "plans"
    mine = parts(folder)
    key = mine.key(TEXTS)
    for _ in range(2):
        mine.note(key, keep(folder, key, TOKENS))
        assert mine.find(key, 3) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: tokenised texts cannot be kept there (Not a directory): a plan that is killed begins anew"
    ]


def test_a_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "LEAST_FREE", 1 << 60)
    assert keep(tmp_path, "0" * 64, TOKENS) == f"less than {1 << 30} GiB would be left free"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_one_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MOETRACE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "moetrace" / "plans"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "moetrace" / "plans"
    monkeypatch.setenv("MOETRACE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "plans"
