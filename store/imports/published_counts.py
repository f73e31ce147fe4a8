"""What formats have in common that hold a number for each expert of each layer: JSON, read with checks, to counts."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import CaptureError, ImportFormatError
from moetrace.store.imports.request import ImportResult
from moetrace.store.shard.counts import check_counts
from moetrace.store.write.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moetrace.store.format.records import RunRecord
    from moetrace.store.imports.request import ImportRequest
    from moetrace.store.progress import Progress
    from moetrace.store.shard.counts import Counts
    from moetrace.store.storage.base import Storage

TABLES = ("usage",)
HIGHEST = 65535  # layer or expert id that a store can hold
MOST = 2**53  # that float64 still counts


def read_json(path: Path, progress: Progress) -> tuple[Any, str]:
    """Return a file's JSON value and its SHA-256; raise ImportFormatError, naming file and line, where it is not JSON.

    A key that stands twice in an object is refused: one of the two numbers would be lost.
    """
    try:
        content = path.read_bytes()
        value = json.loads(content, object_pairs_hook=_once_each, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ImportFormatError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    except (OSError, ValueError) as error:
        raise ImportFormatError(f"{path}: cannot be read as JSON ({error})") from error
    progress.advance(len(content))
    return value, hashlib.sha256(content).hexdigest()


def member(value: Any, name: str, where: object) -> Any:
    """Return what a JSON object has under a name; raise ImportFormatError where it is no object or lacks it."""
    found = json_object(value, where)
    if name not in found:
        raise ImportFormatError(f"{where}: lacks {name!r}")
    return found[name]


def json_object(value: Any, where: object) -> dict[str, Any]:
    """Return a JSON object with at least one member; raise ImportFormatError where it is none."""
    if not isinstance(value, dict) or not value:
        raise ImportFormatError(f"{where}: should be a JSON object, and not an empty one")
    return value


def numbered(value: Any, what: str, where: object) -> dict[int, Any]:
    """Return an object's members by number, ascending; raise ImportFormatError where a key is no layer or expert id."""
    found = {}
    for key, item in json_object(value, where).items():
        if not key.isdecimal() or str(int(key)) != key or int(key) > HIGHEST:
            raise ImportFormatError(f"{where}: {key!r} is no {what}")
        found[int(key)] = item
    return dict(sorted(found.items()))


def number(value: Any, where: object, *, whole: bool = False) -> Any:
    """Return a number from 0 to 2^53, `whole` or any; raise ImportFormatError where it is none."""
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MOST:
        raise ImportFormatError(f"{where}: {value!r} is no non-negative {'whole ' if whole else ''}number")
    return value


def same_layers(layers: Sequence[tuple[str, Sequence[int]]]) -> Sequence[int]:
    """Return the layers that all have; raise ImportFormatError where they differ.

    layers: of each language, after where they were read
    """
    first, expected = layers[0]
    for where, found in layers:
        if found != expected:
            raise ImportFormatError(f"{where}: has layers {found}, {first} has {expected}; a run is of one model")
    return expected


def write_languages(
    place: str | Path | Storage,
    request: ImportRequest,
    record: RunRecord,
    counts: Sequence[tuple[str, Counts]],
    progress: Progress,
) -> ImportResult:
    """Check the counts of all languages, then write those that the store lacks.

    counts: of each language, after where they were read

    Raises ImportFormatError where they cannot be those of the run, nothing written.
    """
    for where, found in counts:
        try:
            check_counts(found, record)
        except CaptureError as error:
            raise ImportFormatError(f"{where}: {error}") from error
    written = []
    with StoreWriter(place, record) as writer:
        for _, found in counts:
            if writer.claim(found.lang, found.number):
                progress.committed(writer.write_counts(found))
                written.append(0 if record.nominal_tokens else found.tokens)
    return ImportResult(request.run, len(counts), len(written), sum(written), len(counts) - len(written))


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
