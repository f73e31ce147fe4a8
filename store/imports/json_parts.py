"""A JSON file a part at a time: objects that hold many others are walked, and parsed is what they hold, one by one.

As objects of Python, JSON takes up to 35 times the memory of its text; so only one small part is objects at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from moetrace.store.errors import ImportFormatError
from moetrace.store.format.regular_file import read_regular
from moetrace.store.format.strict_json import JsonError, parse_json
from moetrace.store.imports.quoting import quoted, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moetrace.store.progress import Progress

MOST_BYTES = 64 << 20  # of a file
MOST_PART = 1 << 20  # characters that are parsed together
MOST_MEMBERS = (1 << 16) + 1  # of an object that is walked
LONGEST_NAME = 256  # of a member of an object that is walked, as it stands in the file

SPACE = re.compile(r"[ \t\n\r]*")
NAME = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
PLAIN = re.compile(r"[^,\]}\s]*")  # a number, true, false, null
# What stands before the next bracket, strings without escapes among it; some at a time: a repeat takes memory.
TO_BRACKET = re.compile(r'[^{}\[\]"]*(?:"[^"\\]*"[^{}\[\]"]*){0,500}')
END_OF_STRING = re.compile(r'["\\]')


def open_json(path: Path, progress: Progress) -> tuple[JsonPart, str]:
    """Return what a JSON file holds, not yet parsed, and its SHA-256; raise ImportFormatError where it is no text."""
    try:
        content = read_regular(path, MOST_BYTES)
        sha256 = hashlib.sha256(content).hexdigest()
        progress.advance(len(content))
        text = content.decode("utf-8")
        del content
    except UnicodeDecodeError as error:
        raise ImportFormatError(f"{path}: cannot be read as JSON (not UTF-8 text, byte {error.start})") from error
    except OSError as error:
        raise ImportFormatError(f"{path}: cannot be read as JSON ({error.strerror or error})") from error
    start = _after_space(text, 0)
    whole = JsonPart(path, text, start, _value_end(text, start))
    after = _after_space(text, whole.end)
    if after < len(text):
        whole.refuse(after, "Extra data")
    return whole, sha256


@dataclass(frozen=True)
class JsonPart:
    """A value in a file's text, from `start` up to `end`; whether it is JSON shows when it is walked or parsed."""

    path: Path
    text: str
    start: int
    end: int

    def value(self) -> Any:
        """Parse it; raise ImportFormatError, naming file and line, where it is not JSON or has above MOST_PART."""
        if self.end - self.start > MOST_PART:
            self._refuse(f"a value of {self.end - self.start:,} characters, of which at most {MOST_PART:,} are read")
        try:
            return parse_json(self.text[self.start : self.end], most=MOST_PART)
        except JsonError as error:
            cause = error.__cause__
            if isinstance(cause, json.JSONDecodeError):
                self.refuse(self.start + cause.pos, cause.msg)
            self._refuse(shortened(str(error), 200))

    def members(self, where: object) -> Iterator[tuple[str, JsonPart]]:
        """Yield the members of an object by name, in the file's order.

        Raises ImportFormatError, beginning with `where`, where it is no object or an empty one, and naming file and
        line where it is not JSON, a name stands twice, is too long, or there are more than MOST_MEMBERS.
        """
        text, seen = self.text, set[str]()
        at = _after_space(text, self.start + 1)
        if text[self.start : self.start + 1] != "{" or text[at : at + 1] == "}":
            if self.end - self.start <= MOST_PART:
                self.value()
            raise ImportFormatError(f"{where}: should be a JSON object, and not an empty one")
        while True:
            name, at = self._name(at)
            if name in seen:
                self._refuse(f"{quoted(name)} stands twice in an object", at)
            seen.add(name)
            if len(seen) > MOST_MEMBERS:
                self._refuse(f"an object of more than {MOST_MEMBERS:,} members", at)
            end = _value_end(text, at)
            yield name, JsonPart(self.path, text, at, end)
            at = _after_space(text, end)
            if text[at : at + 1] == "}":
                return
            if text[at : at + 1] != ",":
                self.refuse(at, "Expecting ',' delimiter")
            at = _after_space(text, at + 1)

    def refuse(self, at: int, why: str) -> NoReturn:
        """Raise ImportFormatError for what is not JSON at a place of the text."""
        self._refuse(f"not valid JSON ({why})", at)

    def _refuse(self, why: str, at: int | None = None) -> NoReturn:
        line = self.text.count("\n", 0, self.start if at is None else at) + 1
        raise ImportFormatError(f"{self.path}, line {line}: {why}")

    def _name(self, at: int) -> tuple[str, int]:
        """Return a member's name, and where its value begins."""
        found = NAME.match(self.text, at, at + LONGEST_NAME)
        if found is None:
            if self.text[at : at + 1] == '"' and len(self.text) > at + LONGEST_NAME:
                self._refuse(f"a name of more than {LONGEST_NAME} characters", at)
            self.refuse(at, "Expecting property name enclosed in double quotes")
        name = JsonPart(self.path, self.text, at, found.end()).value()
        at = _after_space(self.text, found.end())
        if self.text[at : at + 1] != ":":
            self.refuse(at, "Expecting ':' delimiter")
        return str(name), _after_space(self.text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return at if found is None else found.end()


def _value_end(text: str, at: int) -> int:
    """Return where the value that begins at `at` ends, by its brackets; the end of the text where it does not."""
    first = text[at : at + 1]
    if first == '"':
        return _string_end(text, at + 1)
    if first not in {"{", "["}:
        found = PLAIN.match(text, at)
        return at if found is None else found.end()
    depth, at = 1, at + 1
    while depth:
        before = TO_BRACKET.match(text, at)
        at = len(text) if before is None else before.end()
        if at == len(text):
            return at
        if text[at] == '"':
            at = _string_end(text, at + 1)
        else:
            depth += 1 if text[at] in "{[" else -1
            at += 1
    return at


def _string_end(text: str, at: int) -> int:
    """Return where a string ends whose text goes on at `at`."""
    while (found := END_OF_STRING.search(text, at)) is not None:
        at = found.end()
        if text[found.start()] == '"':
            return at
        at += 1
    return len(text)
