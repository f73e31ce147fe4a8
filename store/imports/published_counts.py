"""What formats have in common that hold a number for each expert of each layer: JSON, read with checks, to counts."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError, ImportFormatError
from moetrace.store.format.layout import shard_key
from moetrace.store.imports.quoting import quoted, shortened
from moetrace.store.imports.request import ImportResult
from moetrace.store.shard.counts import Counts, check_counts
from moetrace.store.write.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from moetrace.store.format.records import RunRecord
    from moetrace.store.imports.json_parts import JsonPart
    from moetrace.store.imports.request import ImportRequest
    from moetrace.store.progress import Progress
    from moetrace.store.storage.base import Storage

TABLES = ("usage",)
HIGHEST = 65535  # layer or expert id that a store can hold
MOST = 2**45  # of 65,536 such numbers the sum is exact, in int64 and in float64
MOST_LANGUAGES = 4096  # of one import


class SparseGrid:
    """Numbers of the experts that a file names, in about the memory of its text; one language."""

    def __init__(self, columns: int) -> None:
        self.layers: list[int] = []
        self._ids = array("H"), array("H")  # place in `layers`, expert
        self._values = [array("d") for _ in range(columns)]

    @property
    def experts(self) -> int:
        """Return the highest expert id and one."""
        return 1 + max(self._ids[1], default=-1)

    def add(self, expert: int, *values: float) -> None:
        """Add an expert of the layer that was appended to `layers` last."""
        self._ids[0].append(len(self.layers) - 1)
        self._ids[1].append(expert)
        for column, value in zip(self._values, values, strict=True):
            column.append(value)

    def total(self) -> float:
        """Return the sum of the first column."""
        return float(np.sum(np.frombuffer(self._values[0]))) if self._values[0] else 0.0

    def dense(self, experts: int) -> Iterator[npt.NDArray[np.float64]]:
        """Yield each column as float64 [L, experts], layers ascending; 0 for who is not named."""
        order = np.argsort(np.array(self.layers))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        layer, expert = (np.frombuffer(ids, dtype=np.uint16) for ids in self._ids)
        for values in self._values:
            grid = np.zeros((len(self.layers), experts))
            grid[place[layer], expert] = np.frombuffer(values)
            yield grid


@dataclass(frozen=True)
class LanguageCounts:
    """The counts of one language, made when they are needed: of many languages they would not fit in memory.

    `where` they were read; `make` raises ImportFormatError where they cannot be counts.
    """

    lang: str
    where: str
    make: Callable[[], Counts]


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


def numbered(part: JsonPart, what: str, where: object, *, but: str = "") -> Iterator[tuple[int | None, JsonPart]]:
    """Yield an object's members by number, None for the one that is named `but`.

    Raises ImportFormatError where a name is no layer or expert id, and as JsonPart.members does.
    """
    for name, item in part.members(where):
        if name == but:
            yield None, item
            continue
        yield item_number(name, what, where), item


def item_number(name: str, what: str, where: object) -> int:
    """Return the layer or expert id that a name is; raise ImportFormatError where it is none."""
    if not (name.isascii() and name.isdecimal()) or len(name) > 5 or str(int(name)) != name or int(name) > HIGHEST:
        raise ImportFormatError(f"{where}: {quoted(name)} is no {what}")
    return int(name)


def number(value: Any, where: object, *, whole: bool = False, most: int = MOST) -> Any:
    """Return a number from 0 to `most`, `whole` or any; raise ImportFormatError where it is none."""
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or value < 0:
        raise ImportFormatError(f"{where}: {quoted(value)} is no non-negative {'whole ' if whole else ''}number")
    if value > most:
        raise ImportFormatError(f"{where}: {quoted(value)} is more than {most:,}, the most that is read")
    return value


def same_layers(layers: Sequence[tuple[str, Sequence[int]]]) -> Sequence[int]:
    """Return the layers that all have; raise ImportFormatError where they differ.

    layers: of each language, after where they were read
    """
    first, expected = layers[0]
    for where, found in layers:
        if found != expected:
            raise ImportFormatError(
                f"{where}: has layers {shortened(str(list(found)))}, "
                f"{first} has {shortened(str(list(expected)))}; a run is of one model"
            )
    return expected


def write_languages(
    place: str | Path | Storage,
    request: ImportRequest,
    record: RunRecord,
    languages: Sequence[LanguageCounts],
    progress: Progress,
) -> ImportResult:
    """Check the counts of all languages, then write those that the store lacks.

    Raises ImportFormatError where they cannot be those of the run, nothing written.
    """
    for language in languages:
        try:
            check_counts(language.make(), record)
        except ImportFormatError:
            raise
        except CaptureError as error:
            raise ImportFormatError(f"{language.where}: {error}") from error
    written = []
    with StoreWriter(place, record) as writer:
        for language in languages:
            if writer.claim(language.lang, 0):
                found = language.make()
                progress.committed(writer.write_counts(found))
                written.append(0 if record.nominal_tokens else found.tokens)
        planned = [shard_key(language.lang, 0) for language in languages]
        return ImportResult.of(request.run, len(languages), planned, written, writer.committed())
