"""JSON of strangers: parsed within limits, and only where it can be read in one way."""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 64  # objects and lists in each other
MOST_BYTES = 16 << 20  # parsed, they may take 35 times as much memory


class JsonError(ValueError):
    """What was read is not JSON that can be read in one way only; the message says what is wrong, and at which line."""


def parse_json(content: str | bytes, *, most: int = MOST_BYTES) -> Any:
    """Return the value of JSON text.

    Raises JsonError for more than `most` bytes or characters, for what is not UTF-8 or not JSON, for objects and lists
    nested deeper than DEEPEST, for a key that stands twice in an object, for a text that is no Unicode, and for numbers
    that JSON or a float does not have: NaN, infinities, 1e999.
    """
    if len(content) > most:
        raise JsonError(f"has {len(content):,} bytes, more than the {most:,} that are read")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_once_each, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise JsonError(f"line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from error
    except JsonError:
        raise
    except RecursionError as error:
        raise JsonError(f"objects and lists are nested deeper than {DEEPEST}") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise JsonError(f"not valid JSON ({str(error).splitlines()[0]})") from error
    if text.count("{") + text.count("[") > DEEPEST:  # fewer cannot be nested deeper
        _check_depth(value)
    if "\\u" in text:
        _check_unicode(value)
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        for name, _ in pairs:
            if name in seen:
                raise JsonError(f"{name[:80]!r} stands twice in an object")
            seen.add(name)
    return found


def _refuse_constant(name: str) -> Any:
    raise JsonError(f"not valid JSON ({name} is not a number)")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JsonError(f"{text[:40]} is no number that a float can hold")
    return value


def _check_unicode(value: Any) -> None:
    """Raise JsonError where a text holds half of a pair, which JSON can escape and no file of UTF-8 can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise JsonError("holds a text that is no Unicode") from error


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            item
            for container in level
            if isinstance(container, (dict, list))
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise JsonError(f"objects and lists are nested deeper than {DEEPEST}")
