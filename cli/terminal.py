"""What a store or a file says, as text that a terminal only shows.

Names come from whoever wrote the store. A control character in one could move the cursor, hide a line or turn it round.
"""

from __future__ import annotations

import re

# C0 and DEL, C1, line separators, marks and overrides of direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MOST = 2000  # characters of a message: an error is a line, whatever it quotes


def printable(text: object) -> str:
    r"""Return a text with every control character as \xNN or \uNNNN."""
    return _CONTROL.sub(_escaped, str(text))


def one_line(text: object) -> str:
    """Return a message as one printable line: what DuckDB and others draw below their first line is cut off."""
    first = next((line for line in str(text).strip().split("\n") if line.strip()), "").strip()
    shown = printable(first)
    return shown if len(shown) <= MOST else f"{shown[: MOST - 4]} ..."


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
