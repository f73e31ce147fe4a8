"""Records of a store changed by hand: as somebody does who knows how they prove themselves, or does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moetrace.store.format.sealed import CHECKSUM, sealed_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def read_record(path: Path) -> dict[str, Any]:
    """Return a record without its checksum."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found.pop(CHECKSUM, None)
    return found


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record with the checksum that it must have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sealed_text(content), encoding="utf-8")


def change_record(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record, and its checksum with it."""
    content = read_record(path)
    change(content)
    write_record(path, content)
