"""Reading a store: its runs, languages and tables."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, UnknownNameError
from moetrace.store.format.schema import TABLE_NAMES, tables
from moetrace.store.read.catalog import Catalog
from moetrace.store.read.failed import failed_records, require_made_under
from moetrace.store.read.rollups import rest_added_up, rollup_files, rollup_table
from moetrace.store.read.verified import VerifiedFiles

if TYPE_CHECKING:
    from collections.abc import Collection

    import polars as pl
    import pyarrow as pa
    import pyarrow.dataset as ds

    from moetrace.store.format.plan_record import FailedRecord
    from moetrace.store.read.catalog import ShardFile
    from moetrace.store.read.rollups import AddedUp, CompactedRollups


class Store(Catalog):
    """A store, read-only, as its records were when they were first read."""

    def traced_at(self, run: str) -> str:
        """Return the time of the run's newest commit, ISO 8601; raise StoreError where it has none."""
        times = [commit.created for commit in self.commits if commit.run == run]
        if not times:
            raise StoreError(f"{self.url}: run '{run}' has no finished shard yet; trace it first")
        return max(times)

    def languages(self, run: str) -> list[str]:
        """Return the languages of which at least one shard is committed."""
        return sorted({commit.lang for commit in self.commits if commit.run == run})

    def rollups(self) -> tuple[list[CompactedRollups], list[ShardFile]]:
        """Return what the roll-ups of all runs are added up from: compacted files, and the shards they do not cover."""
        return rollup_files(self)

    @cached_property
    def added_up(self) -> AddedUp:
        """Return the roll-ups of shards that no compacted file covers, added up in memory and kept there."""
        return rest_added_up(self)

    def rollup_table(self, run: str | None = None) -> pa.Table:
        """Return the roll-ups of a run, added up over shards: a row for each language, layer and expert.

        Columns: lang and those of `usage`. Raises UnknownNameError for a run that is not there, StoreError where a
        file is damaged.
        """
        return rollup_table(self, self.run(run).run)

    def set_aside(self) -> list[FailedRecord]:
        """Return the texts that were set aside of each finished shard, by run, language and shard.

        Raises StoreError where a record of them is damaged, or was made under another record of its run.
        """
        finished = {(commit.run, commit.lang, commit.shard): commit.run_sha256 for commit in self.commits}
        found = [
            record for record in failed_records(self.storage) if (record.run, record.lang, record.shard) in finished
        ]
        for record in found:
            require_made_under(record, finished[record.run, record.lang, record.shard], f"{self.url}: ")
        return found

    def dataset(self, table: str, run: str | None = None, languages: Collection[str] = ()) -> ds.Dataset:
        """Return a table of one run as an Arrow dataset, with columns run, lang and shard; nothing is read yet.

        Without a name, the only run; without languages, all of them. Every byte that is read is checked. Raises
        UnknownNameError for a run, a table or a language that is not there.
        """
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.dataset as ds  # noqa: PLC0415  takes a while to import, and few need it
        from pyarrow.fs import FSSpecHandler, PyFileSystem  # noqa: PLC0415

        record = self.run(run)
        if table not in TABLE_NAMES:
            raise UnknownNameError.among("table", table, TABLE_NAMES, self.url)
        for lang in languages:
            if lang not in self.languages(record.run):
                raise UnknownNameError.among("language", lang, self.languages(record.run), f"run '{record.run}'")
        files = [
            file for file in self.files(table) if file.run == record.run and (not languages or file.lang in languages)
        ]
        keys = pa.schema([("run", pa.string()), ("lang", pa.string()), ("shard", pa.int32())])
        run_is, lang_is, shard_is = (ds.field(name) for name in keys.names)
        return ds.FileSystemDataset.from_paths(
            [file.path for file in files],
            schema=pa.schema([*keys, *tables(record.num_experts)[table].schema]),
            format=ds.ParquetFileFormat(),
            filesystem=PyFileSystem(FSSpecHandler(VerifiedFiles(self))),
            partitions=[
                (run_is == file.run) & (lang_is == file.lang) & (shard_is == pa.scalar(file.shard, pa.int32()))
                for file in files
            ],
        )

    def scan(self, table: str, run: str | None = None, languages: Collection[str] = ()) -> pl.LazyFrame:
        """Return a table of one run as a lazy polars frame; arguments, checks and errors are those of `dataset`."""
        import polars as pl  # noqa: PLC0415

        return pl.scan_pyarrow_dataset(self.dataset(table, run, languages))
