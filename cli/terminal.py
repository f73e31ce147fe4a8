"""What a store or a file says, as text that a terminal only shows.

Names come from whoever wrote the store. A control character in one could move the cursor, hide a line or turn it round.
"""

from __future__ import annotations

import json
import logging
import re

import click

# C0 and DEL, C1, line separators, marks and overrides of direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MOST = 1500  # characters of a message, whatever it quotes


def printable(text: object) -> str:
    r"""Return a text with every control character as \xNN or \uNNNN."""
    return _CONTROL.sub(_escaped, str(text))


def one_line(text: object) -> str:
    """Return a message as one printable line, without the excerpt of a query that DuckDB draws below its own."""
    words = str(text).strip().partition("\n\nLINE ")[0]
    shown = printable(" ".join(line.strip() for line in words.split("\n") if line.strip()))
    return shown if len(shown) <= MOST else f"{shown[: MOST // 2]} ... {shown[-MOST // 2 :]}"


def is_quiet() -> bool:
    """Tell whether nothing is to be said but results, warnings and errors: `moetrace --quiet`."""
    context = click.get_current_context(silent=True)
    return bool(context is not None and context.find_root().params.get("quiet"))


def say(message: str) -> None:
    """Print what was done on stderr, unless a person wants it quiet."""
    if not is_quiet():
        click.echo(message, err=True)


def json_document(value: object) -> str:
    """Return a value as JSON that can be printed."""
    return printable_json(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def printable_json(text: str) -> str:
    """Return the text of JSON, in which what JSON itself does not escape of control characters is escaped, too."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


class PrintableFormatter(logging.Formatter):
    """Formats what is logged, lines kept, such that nothing in it is obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return "\n".join(printable(line) for line in super().format(record).split("\n"))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
