"""Reading the roll-ups of shards, and adding them up by language: in threads, in the order of the shards."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
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
    return _read(catalog, file, _usage_schema(record.num_experts, version))


def compacted_rows(catalog: Catalog, record: RunRecord, file: FileRecord) -> dict[str, pa.Table]:
    """Return the rows of compacted roll-ups by language; raise StoreError where the file is damaged."""
    rows = _read(catalog, file, rollups(record.num_experts).schema)
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
    step = max(1, min(FILES_AT_ONCE, ROWS_AT_ONCE // (len(record.moe_layers) * record.num_experts)))

    def batches() -> Iterator[UsageFiles]:
        for found in files.values():
            yield from (found[at : at + step] for at in range(0, len(found), step))

    def read(batch: UsageFiles) -> list[pa.Table] | StoreError:
        try:
            return [usage_rows(catalog, record, *file) for file in batch]
        except StoreError as error:
            return error

    reading = _in_threads(read, batches())
    for lang, found in files.items():
        sums = _Sums(record, where=f"{catalog.url}: the roll-ups of {lang} of run '{record.run}'")
        error: StoreError | None = None
        parts = islice(reading, -(-len(found) // step))
        for part in (*([[before[lang]]] if lang in before else []), *parts):
            try:
                if isinstance(part, StoreError):
                    raise part
                for rows in part if error is None else ():
                    sums.add(rows)
            except StoreError as first:
                error = error or first
        yield lang, error or sums.table(lang)


class _Sums:
    """The roll-ups of one language, added up shard after shard."""

    def __init__(self, record: RunRecord, where: str) -> None:
        self._schema = rollups(record.num_experts).schema
        layer, expert = (self._schema.field(name).type.to_pandas_dtype() for name in ("layer", "expert"))
        self._layer = np.repeat(np.asarray(record.moe_layers, dtype=layer), record.num_experts)
        self._expert = np.tile(np.arange(record.num_experts, dtype=expert), len(record.moe_layers))
        self._where, self._largest = where, 0
        self._known = self._schema.names[3:]
        self._sums: dict[str, npt.NDArray[Any]] = {}

    def add(self, rows: pa.Table) -> None:
        """Add what was summed before, or a shard; raise StoreError where it is not the roll-up of one."""
        count = _values(rows.column("count"))
        self._largest += int(count.max())
        if (
            not np.array_equal(_values(rows.column("layer")), self._layer)
            or not np.array_equal(_values(rows.column("expert")), self._expert)
            or int(count.min()) < 0
            or self._largest > MOST_SUM
        ):
            raise StoreError(f"{self._where} do not have a count for each expert of each layer; see `moetrace verify`")
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        self._known = [name for name in self._known if name in columns and columns[name].null_count == 0]
        for name in self._known:
            values = _values(columns[name])
            if name in self._sums:
                self._sums[name] += values
            else:
                self._sums[name] = values.copy()

    def table(self, lang: str) -> pa.Table:
        """Return the sums, in the schema of `rollups`."""
        known = {"layer": self._layer, "expert": self._expert, **{name: self._sums[name] for name in self._known}}
        size = len(self._layer)
        columns = [
            _column(known[field.name], field.type) if field.name in known else pa.nulls(size, field.type)
            for field in islice(self._schema, 1, None)
        ]
        return pa.Table.from_arrays([_repeated(lang, size), *columns], schema=self._schema)


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


@cache
def _usage_schema(num_experts: int, version: int) -> pa.Schema:
    return usage(num_experts).schema_in(version)


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


def _read(catalog: Catalog, file: FileRecord, schema: pa.Schema) -> pa.Table:
    """Return a file's rows; raise StoreError where it is damaged, or has other rows or columns than its record says."""
    where = f"{catalog.url}: {file.path}"
    content = read_verified(catalog, file, 0, file.bytes)
    try:
        with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as parquet:
            found = parquet.schema_arrow
            same = found.equals(schema) or (found.names, found.types) == (schema.names, schema.types)
            if parquet.metadata.num_rows != file.rows or not same:
                raise StoreError(
                    f"{where}: has {parquet.metadata.num_rows} rows of {', '.join(found.names)}; expected "
                    f"{file.rows} of {', '.join(schema.names)}, or their types differ"
                )
            rows = parquet.read(use_threads=False)
        for field in schema:
            if not field.nullable and rows.column(field.name).null_count:
                raise StoreError(f"{where}: cannot be read as Parquet (a null in {field.name}, which has none)")
        return rows if rows.schema.equals(schema) else pa.Table.from_arrays(rows.columns, schema=schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{where}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
