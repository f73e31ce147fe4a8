"""docs/troubleshooting.md has every message that an error of moetrace can have, and no other."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache

import pytest

from moetrace.store.errors import UnknownNameError
from moetrace.store.format.layout import checked_language
from moetrace.store.read.reader import Store
from tests.reference_pages.messages import BESIDE, Code, messages, worded
from tests.support.paths import ROOT, product_modules

PAGE = ROOT / "docs" / "troubleshooting.md"
BLOCK = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Where a message is another's, or is made of values alone: what it says is found under the words of those.
OF_OTHERS = {
    "analytics/database/errors.py",  # DuckDB's words
    "analytics/metrics/frame.py",  # the sentences of `missing_inputs`
    "analytics/plots.py",  # what a section of the report says it lacks
    "store/checked_file.py",  # those of JSON, and jsonschema's
    "store/format/record_schemas.py",  # those of the names of runs and languages
    "store/imports/esft.py",  # those of StoreError
    "store/imports/published_counts.py",  # those of CaptureError
    "store/storage/remote.py",  # those of fsspec and boto
    "store/verify/run_records.py",  # those that reading a record or a shard raises
    "store/verify/verify.py",
    "tracer/engine/engine.py",  # what failed in the workers
    "tracer/engine/failures.py",
    "tracer/recording/attach.py",
    "tracer/runs/engines.py",
    "tracer/worker/recorder.py",
}


@cache
def found() -> dict[str, set[str]]:
    return messages()


@cache
def shown() -> list[str]:
    return [line for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")) for line in block.splitlines()]


def test_every_message_of_the_code_has_an_entry() -> None:
    lacking = {message: places for message, places in found().items() if worded(message)}
    for message in shown():
        lacking.pop(message, None)
    assert not lacking, "add to docs/troubleshooting.md:\n" + "\n".join(f"{m}  {sorted(p)}" for m, p in lacking.items())


def test_no_entry_is_of_a_message_that_the_code_has_not() -> None:
    assert [message for message in shown() if message not in found()] == []
    assert [message for message, times in Counter(shown()).items() if times > 1] == []


def test_messages_without_words_are_of_places_that_are_known() -> None:
    places = {place.partition(":")[0] for message, places in found().items() if not worded(message) for place in places}
    assert places == OF_OTHERS


def test_every_entry_says_something_below_its_messages() -> None:
    sections = re.split(r"^#{2,3} .+$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for section in sections:
        if BLOCK.search(section):
            assert BLOCK.sub("", section).split(), section


def raises() -> list[str]:
    """Every line of the product that raises an error of moetrace, found by its `raise` alone."""
    code, files = Code(), product_modules()
    errors = code.errors - BESIDE
    return [
        f"{files[module].relative_to(ROOT)}:{node.exc.lineno}"
        for module, tree in code.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func).partition(".")[0] in errors
    ]


def test_no_place_that_raises_is_overlooked() -> None:
    places = set().union(*found().values())
    lines = raises()
    assert len(lines) > 400
    assert [line for line in lines if line not in places] == []


@pytest.mark.parametrize("name", ["a b", "../x"])
def test_what_is_raised_is_what_the_page_says(name: str, tmp_path: object) -> None:
    """Real messages, each against its entry: what varies is anything, all else is to the letter."""
    raised = []
    for act in (
        lambda: checked_language(name),
        lambda: Store(f"{tmp_path}/{name}"),
        lambda: (_ for _ in ()).throw(UnknownNameError.among("view", name, ["zones"], "moetrace")),
    ):
        with pytest.raises(Exception) as error:  # noqa: PT011  which one is what the page is asked
            act()
        raised.append(str(error.value))
    for message in raised:
        assert any(pattern_of(line).fullmatch(message) for line in shown()), message


def pattern_of(line: str) -> re.Pattern[str]:
    parts = re.split(r"…|\b(?:STORE|RUN|LANG|PATH|CORPUS|MODEL|WHERE)\b", line)
    return re.compile(".+".join(map(re.escape, parts)))
