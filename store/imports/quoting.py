"""What a stranger's file says, put into a message of one line."""

from __future__ import annotations

MOST = 100  # characters


def quoted(value: object) -> str:
    """Return how Python writes a value, control characters escaped, its middle left out where it is long."""
    # The text of a string is cut first: writing a long one would take several times its memory.
    return shortened(repr(value[:MOST] + value[-MOST:] if isinstance(value, str) and len(value) > 2 * MOST else value))


def shortened(text: str, most: int = MOST) -> str:
    """Return a text with control characters escaped, its middle left out where it is long."""
    found = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in found)
