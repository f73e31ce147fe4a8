"""JSON that can be read in one way only, within limits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.format.strict_json import DEEPEST, JsonError, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_says_is_returned(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1,\n "a": 2}', "'a' stands twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[-Infinity]", "-Infinity is not a number"),
        (b"[1e999]", "1e999 is no number"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff{}", "not UTF-8 text (byte 0)"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 64"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper than 64"),
        (b"9" * 5000, "not valid JSON"),
        (b" " * 101, "more than the 100 that are read"),
    ],
)
def test_anything_else_is_refused_in_one_line(content: bytes, words: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_json(content, most=100 if content.isspace() else 1 << 20)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_deepest_nesting_that_is_allowed_is_read() -> None:
    assert parse_json("[" * DEEPEST + "]" * DEEPEST) is not None
    with pytest.raises(JsonError):
        parse_json("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2))
