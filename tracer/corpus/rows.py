"""Rows of files and of datasets, streamed one by one through `datasets`: a file larger than memory reads as well."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasets import IterableDataset

Row = dict[str, Any]

BATCH_ROWS = 128

LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


def loader(path: Path) -> str:
    """Return the name of the `datasets` loader for a file; raise MoetraceError where there is none."""
    if path.suffix not in LOADERS:
        raise MoetraceError(f"{path}: files of type '{path.suffix}' cannot be read; use {', '.join(LOADERS)}")
    return LOADERS[path.suffix]


def file_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; raise MoetraceError with the place of a bad byte or line."""
    # Else `datasets` tells the hub of each file that is opened, and waits for an answer where there is no network.
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    from datasets import load_dataset  # noqa: PLC0415  seconds to import: only where a corpus is read
    from datasets.exceptions import DatasetGenerationError  # noqa: PLC0415

    kind = loader(path)
    if kind != "parquet":
        _require_utf8(path)
    if path.stat().st_size == 0:
        return
    options: Row = {"keep_linebreaks": False} if kind == "text" else {}
    if kind == "csv":
        # An id such as 007 and a text such as 12 are text.
        options = {"keep_default_na": False, "converters": dict.fromkeys(_header(path), str)}
    try:
        yield from _rows(load_dataset(kind, data_files=str(path), split="train", streaming=True, **options))
    except (DatasetGenerationError, ValueError, TypeError, OSError) as error:
        raise MoetraceError(f"{path}: cannot be read as {kind} ({_reason(error)})") from error


@dataclass(frozen=True)
class Dataset:
    """`hf:<dataset>[:config[:split]]`; the dataset is an id of the hub or a local folder that is one."""

    spec: str
    name: str
    config: str
    split: str

    @classmethod
    def parse(cls, spec: str) -> Dataset:
        """Parse a SPEC; raise MoetraceError where it has too many parts or no name."""
        parts = spec.removeprefix("hf:").split(":")
        if len(parts) > 3 or not parts[0]:
            raise MoetraceError(f"corpus {spec}: write hf:<dataset>[:config[:split]], with an empty config for none")
        name, config, split = (*parts, "", "")[:3]
        return cls(spec, name, config, split)

    def configs(self) -> list[str]:
        """Return the dataset's configs; raise MoetraceError where there is no such dataset or it cannot be reached."""
        from datasets import get_dataset_config_names  # noqa: PLC0415
        from datasets.exceptions import DatasetNotFoundError  # noqa: PLC0415

        try:
            names = list(get_dataset_config_names(self.name))
        except (DatasetNotFoundError, OSError, RuntimeError, ValueError) as error:
            raise self._unreadable(error) from error
        if self.config and self.config not in names:
            raise UnknownNameError.among("config", self.config, names, self.spec)
        return names

    def rows(self, config: str | None) -> Iterator[Row]:
        """Yield the rows of a config's split (the first split where none was asked for).

        Raises UnknownNameError for a split it does not have, MoetraceError where it cannot be read.
        """
        from datasets import load_dataset  # noqa: PLC0415
        from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError  # noqa: PLC0415

        try:
            loaded = load_dataset(self.name, config, streaming=True)
            if self.split and self.split not in loaded:
                raise UnknownNameError.among("split", self.split, loaded, f"{self.spec} {config or ''}".rstrip())
            yield from _rows(loaded[self.split or next(iter(loaded))])
        except (DatasetGenerationError, DatasetNotFoundError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> MoetraceError:
        return MoetraceError(f"corpus {self.spec}: cannot be loaded ({_reason(error)})")


def _rows(dataset: IterableDataset) -> Iterator[Row]:
    # By Arrow tables, not by rows: four times as fast. Small ones, because a row may be a whole book.
    for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from table.to_pylist()


def _reason(error: Exception) -> str:
    """Return an error's first line, and its last where the reason stands there."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join([lines[0], lines[-1]] if lines[-1].startswith("because") else lines[:1])


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as lines:
        return next(csv.reader(lines), [])


def _require_utf8(path: Path) -> None:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise MoetraceError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert the file") from error
