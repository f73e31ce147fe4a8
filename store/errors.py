"""The errors that moetrace raises on purpose; the command line prints their message as one line and exits with 1."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LISTED = 24  # names that a message lists where none is near


class MoetraceError(Exception):
    """Base of every error that is the user's to solve; the message says what is wrong, where, and what to do."""


class StoreError(MoetraceError):
    """A store, or a file of one, cannot be read or written as it should."""


class UnreadableError(StoreError):
    """A file of a store could not be read now: a disk, a network or a permission said no, which tells nothing of it."""


class RunMismatchError(StoreError):
    """A run of this name exists in the store with a different record; the message names the field."""


class CaptureError(MoetraceError):
    """What was captured cannot be a routing trace (rows nobody wrote, impossible experts or weights)."""


class ImportFormatError(CaptureError):
    """A file of another tool's trace is not what its format says; the message names the file, and line or place."""


class UnknownNameError(MoetraceError):
    """A run, language, view or expert that was asked for does not exist."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], where: str) -> UnknownNameError:
        """Return the error for an unknown name, with the nearest known names as a suggestion."""
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        # `swahili` is nearer to swh_Latn than its letters say: codes mostly begin as the English name does.
        for letters in (3, 2):
            close = close or [each for each in names if each[:letters].lower() == name[:letters].lower()][:3]
        listed = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {listed or 'none'}"
        return cls(f"{where} has no {kind} '{name}'; {hint}")


@contextmanager
def as_store_errors(place: object, done: Literal["read", "written"], then: str = "") -> Iterator[None]:
    """Make a StoreError of one line of what the operating system refuses: what is not done at `place`, why, and `then`.

    Where many files are read, only the error knows which of them it was; what cannot be read is an UnreadableError.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if done == "read":
            where = f"{error.filename}: " if error.filename else ""
            raise UnreadableError(f"{place}: cannot be read ({where}{why}){then}") from error
        raise StoreError(f"{place}: cannot be {done} ({why}){then}") from error
