"""JSON that is walked is JSON as others read it, and what is walked is little in memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.errors import ImportFormatError
from moetrace.store.imports import json_parts
from moetrace.store.imports.json_parts import open_json
from moetrace.store.progress import Progress
from tests.support.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)

REFUSED_ALL_THE_SAME = ("should be a JSON object", "stands twice", "no number that", "no Unicode")


def walked(file: Path) -> dict[str, Any]:
    whole, _ = open_json(file, Progress())
    return {name: part.value() for name, part in whole.members("here")}


def refused(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(ImportFormatError) as error:
        walked(file)
    assert str(error.value).isprintable()
    return str(error.value).removeprefix(str(file))


@given(
    value=st.dictionaries(NAMES, VALUES, min_size=1, max_size=5),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
@examples(200)
def test_what_is_walked_is_what_json_reads(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any], indent: int | None, *, ascii_only: bool
) -> None:
    file = tmp_path_factory.mktemp("json") / "file.json"
    file.write_text(" \n" + json.dumps(value, indent=indent, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    assert walked(file) == value


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5), st.integers(0, 10**6), st.sampled_from('{}[]",:\\0x '))
@examples(300)
def test_what_json_refuses_is_refused(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any], at: int, put: str
) -> None:
    file = tmp_path_factory.mktemp("json") / "file.json"
    text = json.dumps(value)
    text = text[: at % len(text)] + put + text[at % len(text) + 1 :]
    file.write_text(text, encoding="utf-8")
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ImportFormatError):
            walked(file)
        return
    try:
        assert walked(file) == expected
    except ImportFormatError as error:  # of what json reads, nothing but this is refused
        assert any(why in str(error) for why in REFUSED_ALL_THE_SAME)  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ", line 1: not valid JSON (Expecting value)"),
        (b"\n\n[1", ", line 3: not valid JSON (Expecting ',' delimiter)"),
        (b'{"a": 1', ", line 1: not valid JSON (Expecting ',' delimiter)"),
        (b'{"a": 1,\n}', ", line 2: not valid JSON (Expecting property name enclosed in double quotes)"),
        (b'{"a" 1}', ", line 1: not valid JSON (Expecting ':' delimiter)"),
        (b'{"a": 1}\nx', ", line 2: not valid JSON (Extra data)"),
        (b'{"a":\n[1, 2}, "b": 1}', ", line 2: not valid JSON (Expecting ',' delimiter)"),
        (b'{"a":\n{"b": 1,\n "b": 2}}', ", line 2: 'b' stands twice in an object"),
        (b'{"a": 1,\n"a": 2}', ", line 2: 'a' stands twice in an object"),
        (b'{"a": NaN}', ", line 1: not valid JSON (NaN is not a number)"),
        (b'{"a": ' + b"9" * 5000 + b"}", ", line 1: not valid JSON (Exceeds the limit"),
        (b'{"a": ' + b"[" * 100_000, ", line 1: objects and lists are nested deeper than 64"),
        (b'{"' + b"x" * 300 + b'": 1}', ", line 1: a name of more than 256 characters"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', ", line 1: a value of 1,048,578 characters, of which at most"),
        (b"{}", "here: should be a JSON object, and not an empty one"),
        (b"[1]", "here: should be a JSON object, and not an empty one"),
        (b'"' + b"\\" * 999, ", line 1: not valid JSON (Unterminated string starting at)"),
        (b'{"\xff": 1}', ": cannot be read as JSON (not UTF-8 text, byte 2)"),
        (b'\xef\xbb\xbf{"a": 1}', ", line 1: not valid JSON"),
    ],
)
def test_what_is_not_json_is_refused_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    assert refused(tmp_path / "file.json", content).startswith(message)


def test_an_object_of_more_members_than_experts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "MOST_MEMBERS", 3)
    message = refused(tmp_path / "file.json", b'{"a": 1, "b": 2, "c": 3, "d": 4}')
    assert message == ", line 1: an object of more than 3 members"


def test_walking_takes_little_more_memory_than_the_text(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    inner = "{" + ",".join(f'"{number:x}":1' for number in range(1000)) + "}"
    file.write_text("{" + ",".join(f'"{number}":{inner}' for number in range(1000)) + "}")
    peaks = []
    for read in (lambda: json.loads(file.read_text()), lambda: walk(file)):
        tracemalloc.start()
        read()
        peaks.append(tracemalloc.get_traced_memory()[1] / file.stat().st_size)
        tracemalloc.stop()
    assert peaks[1] < 3 < peaks[0]


def walk(file: Path) -> None:
    whole, _ = open_json(file, Progress())
    for _, part in whole.members("here"):
        part.value()
