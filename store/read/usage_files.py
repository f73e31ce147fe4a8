"""Reading the roll-ups of shards, and adding them up by language: in threads, in the order of the shards."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import StoreError
from moetrace.store.format.schema import rollups, usage
from moetrace.store.read.verified import read_verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from moetrace.store.format.records import FileRecord, RunRecord
    from moetrace.store.read.catalog import Catalog

    UsageFiles = Sequence[tuple[FileRecord, int]]  # `usage` files of shards, each with its format version

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_COUNT, MOST_SUM = 2**53, 2**63 - 1  # of a shard, of a language
FILES_AT_ONCE, ROWS_AT_ONCE = 16, 1 << 17  # that a thread reads in one go


def usage_rows(catalog: Catalog, record: RunRecord, file: FileRecord, version: int) -> pa.Table:
    """Return the roll-up of a shard, of the columns that its format version has; StoreError where it is damaged."""
    return _read(catalog, file, _usage_columns(record.num_experts, version))


def compacted_rows(catalog: Catalog, record: RunRecord, file: FileRecord) -> dict[str, pa.Table]:
    """Return the rows of compacted roll-ups by language; raise StoreError where the file is damaged."""
    rows = _read(catalog, file, _rollup_columns(record.num_experts))
    size = len(record.moe_layers) * record.num_experts
    parts = (rows.slice(start, size) for start in range(0, len(rows), size))
    return {part.column("lang")[0].as_py(): part for part in parts}


def added_up(
    catalog: Catalog, record: RunRecord, lang: str, files: UsageFiles, before: pa.Table | None = None
) -> pa.Table:
    """Return the roll-ups of one language, added up in the order of the shards, to what was added up `before`.

    One row is one expert of one layer, in the schema of `rollups`; a column that one of them lacks is null. Raises
    StoreError where a file is damaged, or has no count for each expert of each layer.
    """
    ((_, found),) = languages_added_up(catalog, record, {lang: files}, {} if before is None else {lang: before})
    if isinstance(found, StoreError):
        raise found
    return found


def languages_added_up(
    catalog: Catalog, record: RunRecord, files: Mapping[str, UsageFiles], before: Mapping[str, pa.Table]
) -> Iterator[tuple[str, pa.Table | StoreError]]:
    """Yield each language of `files` with what `added_up` returns or raises of it.

    As many threads as there are cores read; each language is added up in the order of its files.
    """
    pool = _Pool(record)
    step = max(1, min(FILES_AT_ONCE, ROWS_AT_ONCE // pool.size))

    def batches() -> Iterator[tuple[str, UsageFiles]]:
        for lang, found in files.items():
            yield from ((lang, found[at : at + step]) for at in range(0, len(found), step))

    def stacked(lang: str, tables: Iterable[pa.Table]) -> _Stack | StoreError:
        try:
            return pool.stacked([*tables], f"{catalog.url}: the roll-ups of {lang} of run '{record.run}'")
        except StoreError as error:
            return error

    def read(batch: tuple[str, UsageFiles]) -> _Stack | StoreError:
        return stacked(batch[0], (usage_rows(catalog, record, *file) for file in batch[1]))

    reading = _in_threads(read, batches())
    for lang, found in files.items():
        sums = _Sums(pool)
        if lang in before:
            sums.add(stacked(lang, [before[lang].drop_columns("lang")]))
        for part in islice(reading, -(-len(found) // step)):
            sums.add(part)
        yield lang, sums.error or sums.table(lang)


@dataclass(frozen=True)
class _Stack:
    """The roll-ups of F shards: columns that all of them know, [F, rows]; the largest count of each, added up."""

    where: str
    columns: dict[str, npt.NDArray[Any]]
    largest: int


class _Pool:
    """The rows that a roll-up has: one for each of the E experts of L layers."""

    def __init__(self, record: RunRecord) -> None:
        self.schema = rollups(record.num_experts).schema
        layer, expert = (self.schema.field(name).type.to_pandas_dtype() for name in ("layer", "expert"))
        self.layer = np.repeat(np.asarray(record.moe_layers, dtype=layer), record.num_experts)
        self.expert = np.tile(np.arange(record.num_experts, dtype=expert), len(record.moe_layers))
        self.size = len(self.layer)

    def stacked(self, tables: list[pa.Table], where: str) -> _Stack:
        """Return roll-ups as arrays; raise StoreError, naming `where`, where one is not the roll-up of a shard."""
        if any(len(table) != self.size for table in tables):
            raise _unlike(where)
        if not all(table.schema.equals(tables[0].schema) for table in tables):
            shared = set.intersection(*(set(table.column_names) for table in tables))
            tables = [table.select([name for name in self.schema.names if name in shared]) for table in tables]
        joined, shape = pa.concat_tables(tables), (len(tables), self.size)
        columns = {
            name: _values(column).reshape(shape)
            for name, column in zip(joined.column_names, joined.columns, strict=True)
            if column.null_count == 0
        }
        layer, expert, count = columns.pop("layer"), columns.pop("expert"), columns["count"]
        if (layer != self.layer).any() or (expert != self.expert).any() or int(count.min()) < 0:
            raise _unlike(where)
        return _Stack(where, columns, sum(count.max(axis=1).tolist()))


class _Sums:
    """The roll-ups of one language, added up shard after shard; `error`: the first that was met."""

    def __init__(self, pool: _Pool) -> None:
        self.error: StoreError | None = None
        self._pool, self._largest = pool, 0
        self._sums: dict[str, npt.NDArray[Any]] | None = None

    def add(self, stack: _Stack | StoreError) -> None:
        """Add shards, each after the one before it; a column that one of them lacks is not known."""
        if self.error is None and isinstance(stack, StoreError):
            self.error = stack
        if self.error is not None or isinstance(stack, StoreError):
            return
        self._largest += stack.largest
        if self._largest > MOST_SUM:
            self.error = _unlike(stack.where)
            return
        if self._sums is None:
            self._sums = {name: np.zeros(self._pool.size, shards.dtype) for name, shards in stack.columns.items()}
        self._sums = {name: values for name, values in self._sums.items() if name in stack.columns}
        for name, values in self._sums.items():
            for shard in stack.columns[name]:
                np.add(values, shard, out=values)

    def table(self, lang: str) -> pa.Table:
        """Return the sums, in the schema of `rollups`."""
        pool = self._pool
        known = {"layer": pool.layer, "expert": pool.expert, **(self._sums or {})}
        columns = [
            _column(known[field.name], field.type) if field.name in known else pa.nulls(pool.size, field.type)
            for field in islice(pool.schema, 1, None)
        ]
        return pa.Table.from_arrays([_repeated(lang, pool.size), *columns], schema=pool.schema)


def _unlike(where: str) -> StoreError:
    """Return the error for what is no roll-up of its run."""
    return StoreError(f"{where} do not have a count for each expert of each layer; see `moetrace verify`")


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column without nulls. Arrow's own `to_numpy` imports pandas, as `pa.array` and `pa.scalar` do."""
    joined = column.combine_chunks()
    return np.from_dlpack(joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined)


def _column(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return values, whose type is `kind`, as an Arrow array."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _repeated(text: str, times: int) -> pa.Array:
    """Return a text so many times, as an Arrow array."""
    encoded = text.encode()
    ends = np.arange(times + 1, dtype=np.int32) * np.int32(len(encoded))
    return pa.StringArray.from_buffers(times, pa.py_buffer(ends), pa.py_buffer(encoded * times))


@dataclass
class _Columns:
    """The columns that files have to have; `known`: Parquet's schema of such a file, once one has been read."""

    schema: pa.Schema
    known: pq.ParquetSchema | None = None

    def are_those_of(self, found: pa.Schema) -> bool:
        """Tell whether a file has these columns, in this order, and no others."""
        return found.equals(self.schema) or (found.names, found.types) == (self.schema.names, self.schema.types)

    def unlike(self, parquet: pq.ParquetFile, rows: int, where: str) -> StoreError:
        """Return the error for a file that has not."""
        return StoreError(
            f"{where}: has {parquet.metadata.num_rows} rows of {', '.join(parquet.schema_arrow.names)}; expected "
            f"{rows} of {', '.join(self.schema.names)}, or their types differ"
        )


@cache
def _usage_columns(num_experts: int, version: int) -> _Columns:
    return _Columns(usage(num_experts).schema_in(version))


@cache
def _rollup_columns(num_experts: int) -> _Columns:
    return _Columns(rollups(num_experts).schema)


def _in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `work` of each item, in order; a few are done ahead, by as many threads as there are cores."""
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="moetrace-reader") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(catalog: Catalog, file: FileRecord, columns: _Columns) -> pa.Table:
    """Return a file's rows; raise StoreError where it is damaged, or has other rows or columns than its record says."""
    where, schema = f"{catalog.url}: {file.path}", columns.schema
    content = read_verified(catalog, file, 0, file.bytes)
    try:
        parquet = _FlatFile(pa.BufferReader(content), pre_buffer=False)
        as_known = columns.known is not None and parquet.schema.equals(columns.known)
        if parquet.metadata.num_rows != file.rows or not (as_known or columns.are_those_of(parquet.schema_arrow)):
            raise columns.unlike(parquet, file.rows, where)
        rows = parquet.read(use_threads=False)
        if rows.schema.equals(schema):
            columns.known = parquet.schema  # what has no nulls by its schema needs no look
            return rows
        if not columns.are_those_of(rows.schema):  # types that Arrow has, and Parquet stores like others
            raise columns.unlike(parquet, file.rows, where)
        for field in schema:
            if not field.nullable and rows.column(field.name).null_count:
                raise StoreError(f"{where}: cannot be read as Parquet (a null in {field.name}, which has none)")
        return pa.Table.from_arrays(rows.columns, schema=schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{where}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


class _FlatFile(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
    """A Parquet file of which all columns are read: finding nested ones by name takes longer than opening it."""

    def _build_nested_paths(self) -> dict[str, Any]:
        return {}
