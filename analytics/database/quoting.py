"""Names and paths as SQL: the only two ways in which a text of a store becomes part of a statement.

A parameter is better wherever SQL takes one; a view's definition does not.
"""

from __future__ import annotations

from moetrace.store.errors import MoetraceError


def literal(text: str) -> str:
    """Return a text as a string literal of SQL; raise MoetraceError for NUL and for what is no Unicode."""
    return _quoted(text, "'")


def identifier(name: str) -> str:
    """Return a name as a quoted identifier of SQL; raise MoetraceError for NUL, no Unicode, and an empty name."""
    if not name:
        raise MoetraceError("an empty name cannot stand in SQL")
    return _quoted(name, '"')


def _quoted(text: str, quote: str) -> str:
    # Neither kind of quotes knows a backslash: the quote itself, written twice, is all there is to escape.
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise MoetraceError(f"{text!r} holds a character that cannot stand in SQL")
    return f"{quote}{text.replace(quote, quote * 2)}{quote}"
