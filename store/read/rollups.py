"""The roll-ups of a run added up over shards, from compacted files where these are current."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.format.schema import rollups, usage
from moetrace.store.read.verified import read_verified

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from moetrace.store.format.records import FileRecord, RunRecord
    from moetrace.store.read.catalog import Catalog, ShardFile


@dataclass(frozen=True)
class CompactedRollups:
    """The roll-ups of a run added up over shards; only those of `languages` may be used."""

    run: str
    path: str
    languages: tuple[str, ...]


def rollup_files(catalog: Catalog) -> tuple[list[CompactedRollups], list[ShardFile]]:
    """Return what the roll-ups of all runs are added up from: compacted files, and the shards they do not cover.

    A compacted file counts for a language only if every shard it has of that language is committed unchanged.
    """
    compacted, covered = [], set[tuple[str, str]]()
    shards: set[str] = set()
    for run, index in catalog.indexes.items():
        languages = index.current(catalog.commit_files)
        if languages:
            compacted.append(CompactedRollups(run, index.data.path, languages))
            covered |= {(run, lang) for lang in languages}
            shards |= index.entries.keys()
    rest = [
        file
        for file in catalog.files("usage")
        if (file.run, file.lang) not in covered or layout.commit_path(file.run, file.lang, file.shard) not in shards
    ]
    return compacted, rest


def rollup_table(catalog: Catalog, run: str) -> pa.Table:
    """Return the roll-ups of a run added up over shards: lang and the columns of `usage`, a row for each expert.

    Compacted ones are read where they are current, the others shard by shard. Raises StoreError where one is damaged.
    """
    record = catalog.run(run)
    schema = rollups(record.num_experts).schema
    compacted, rest = rollup_files(catalog)
    parts: dict[str, pa.Table] = {}
    for found in (found for found in compacted if found.run == run):
        rows = compacted_rows(catalog, record, catalog.file_record(found.path))
        parts |= {lang: part for lang, part in rows.items() if lang in found.languages}
    shards: dict[str, list[tuple[FileRecord, int]]] = {}
    for file in rest:
        if file.run == run:
            shards.setdefault(file.lang, []).append((catalog.file_record(file.path), file.version))
    for lang, files in shards.items():
        parts[lang] = added_up(catalog, record, lang, files, parts.get(lang))
    return pa.concat_tables([schema.empty_table(), *(parts[lang].cast(schema) for lang in sorted(parts))])


def compacted_rows(catalog: Catalog, record: RunRecord, file: FileRecord) -> dict[str, pa.Table]:
    """Return the rows of compacted roll-ups by language; raise StoreError where the file is damaged."""
    rows = _read(catalog, file, rollups(record.num_experts).schema)
    size = len(record.moe_layers) * record.num_experts
    parts = (rows.slice(start, size) for start in range(0, len(rows), size))
    return {part.column("lang")[0].as_py(): part for part in parts}


def added_up(
    catalog: Catalog,
    record: RunRecord,
    lang: str,
    files: Sequence[tuple[FileRecord, int]],
    before: pa.Table | None = None,
) -> pa.Table:
    """Return the roll-ups of one language, added up in the order of the shards, to what was added up `before`.

    files: the `usage` files of its shards, each with its format version. One row is one expert of one layer, in the
    schema of `rollups`; a column that one of them lacks is null. Raises StoreError where a file is damaged.
    """
    schema = rollups(record.num_experts).schema
    size = len(record.moe_layers) * record.num_experts
    sums: dict[str, npt.NDArray[np.generic]] = {}
    known = set(schema.names[3:])
    parts = (usage_rows(catalog, record, file, version) for file, version in files)
    for rows in (*((before,) if before else ()), *parts):
        known = {name for name in known if name in rows.schema.names and rows.column(name).null_count == 0}
        for name in known:
            values = rows.column(name).to_numpy()
            sums[name] = sums[name] + values if name in sums else values
    columns = [
        pa.array([lang] * size, schema.field("lang").type),
        pa.array(np.repeat(np.asarray(record.moe_layers), record.num_experts), schema.field("layer").type),
        pa.array(np.tile(np.arange(record.num_experts), len(record.moe_layers)), schema.field("expert").type),
        *(
            pa.array(sums[name], schema.field(name).type) if name in known else pa.nulls(size, schema.field(name).type)
            for name in schema.names[3:]
        ),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def usage_rows(catalog: Catalog, record: RunRecord, file: FileRecord, version: int) -> pa.Table:
    """Return the roll-up of a shard, of the columns that its format version has; StoreError where it is damaged."""
    return _read(catalog, file, usage(record.num_experts).schema_in(version))


def _read(catalog: Catalog, file: FileRecord, schema: pa.Schema) -> pa.Table:
    """Return a file's rows; raise StoreError where it is damaged, or has other rows or columns than its record says."""
    where = f"{catalog.url}: {file.path}"
    content = read_verified(catalog, file, 0, file.bytes)
    try:
        with pq.ParquetFile(io.BytesIO(content)) as parquet:
            found = parquet.schema_arrow
            if parquet.metadata.num_rows != file.rows or (found.names, found.types) != (schema.names, schema.types):
                raise StoreError(
                    f"{where}: has {parquet.metadata.num_rows} rows of {', '.join(found.names)}; expected "
                    f"{file.rows} of {', '.join(schema.names)}, or their types differ"
                )
            return parquet.read().cast(schema)
    except (pa.ArrowException, OSError, ValueError) as error:  # of a null where none may be, Arrow raises the last
        raise StoreError(f"{where}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
