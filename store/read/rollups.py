"""The roll-ups of a run added up over shards, from compacted files where these are current."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.format.schema import rollups
from moetrace.store.read.usage_files import compacted_rows, languages_added_up

if TYPE_CHECKING:
    from moetrace.store.format.records import FileRecord
    from moetrace.store.read.catalog import Catalog, ShardFile


@dataclass(frozen=True)
class CompactedRollups:
    """The roll-ups of a run added up over shards; only those of `languages` may be used."""

    run: str
    path: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class AddedUp:
    """The roll-ups of shards that no compacted file covers, added up in memory.

    - rollups: what is of each run; its path is a key of `contents`, and no path of a store
    - contents: Parquet files in the schema of `rollups`
    - rest: files of the languages of which one cannot be added up: who reads them says what is wrong
    """

    rollups: list[CompactedRollups] = field(default_factory=list)
    contents: dict[str, pa.Buffer] = field(default_factory=dict)
    rest: list[ShardFile] = field(default_factory=list)


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


def rest_added_up(catalog: Catalog) -> AddedUp:
    """Add up the roll-ups of the shards that no compacted file covers."""
    made = AddedUp()
    files: dict[str, dict[str, list[ShardFile]]] = {}
    for file in rollup_files(catalog)[1]:
        files.setdefault(file.run, {}).setdefault(file.lang, []).append(file)
    for run, languages in files.items():
        record = catalog.run(run)
        records = {lang: _records(catalog, found) for lang, found in languages.items()}
        covered, sink = [], pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink, rollups(record.num_experts).schema, use_dictionary=["lang"], compression="lz4"
        ) as to:
            for lang, rows in languages_added_up(catalog, record, records, {}):
                if isinstance(rows, StoreError):
                    made.rest.extend(languages[lang])
                    continue
                to.write_table(rows)
                covered.append(lang)
        if covered:
            path = f"added-up/run={run}.parquet"
            made.rollups.append(CompactedRollups(run, path, tuple(covered)))
            made.contents[path] = sink.getvalue()
    return made


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
    shards: dict[str, list[ShardFile]] = {}
    for file in rest:
        if file.run == run:
            shards.setdefault(file.lang, []).append(file)
    records = {lang: _records(catalog, files) for lang, files in shards.items()}
    for lang, table in languages_added_up(catalog, record, records, parts.copy()):
        if isinstance(table, StoreError):
            raise table
        parts[lang] = table
    return pa.concat_tables([schema.empty_table(), *(parts[lang].cast(schema) for lang in sorted(parts))])


def _records(catalog: Catalog, files: list[ShardFile]) -> list[tuple[FileRecord, int]]:
    return [(catalog.file_record(file.path), file.version) for file in files]
