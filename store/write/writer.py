"""Writing shards: data files first, the commit record last, each staged, synced and given its place whole.

A shard is in the store when its commit record is; whatever happens before that leaves nothing a reader sees. Only one
process can create a commit record; whoever comes second throws its copy away.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moetrace.store.errors import CaptureError, StoreError
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
from moetrace.store.format.schema import FORMAT_VERSION, Table, routes, tables
from moetrace.store.format.weights import lies_on, round_weights
from moetrace.store.read.reader import read_format
from moetrace.store.shard.counts import Counts, check_counts, count_rows
from moetrace.store.shard.ranking import LayerRanking
from moetrace.store.shard.rollup import UsageRollup
from moetrace.store.shard.shard import Shard, check_shard, token_order
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.faults import FaultPoint, reach
from moetrace.store.storage.storage import Storage, open_storage
from moetrace.store.write.files import HashedFile, write_parquet

if TYPE_CHECKING:
    from pathlib import Path

PROFILE_ROWS = 1 << 17  # of a row group

RowGroups = Iterator[pa.Table]
Contents = Iterator[tuple[Table, RowGroups]]


class StoreWriter:
    """Writes the shards of one run into a store, which is made if it does not exist.

    Used as a context, or closed, it gives back the claims it holds.
    """

    def __init__(self, place: str | Path | Storage, record: RunRecord) -> None:
        """Open the run.

        Raises RunMismatchError where the store has it with another record, StoreError where the place is no store.
        """
        self.storage = place if isinstance(place, Storage) else open_storage(place)
        self.record = record
        for lang in record.corpus["languages"]:
            layout.checked_language(lang)
        path = layout.run_path(record.run)
        with self._in_words():
            open_or_create(self.storage)
            if not self.storage.has(path) and self.storage.create(path, record.to_json().encode()):
                reach(FaultPoint.RUN_WRITTEN)
            else:
                self.record = RunRecord.from_json(self.storage.read(path), f"{self.storage}: {path}")
                self.record.require_same(record)
        self._run_sha256 = self.record.sha256()
        self._claims = Claims(self.storage, record.run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the claims on shards that were not written."""
        with self._in_words():
            self._claims.close()

    def is_committed(self, lang: str, shard: int) -> bool:
        """Tell whether the shard is in the store."""
        with self._in_words():
            return self.storage.has(layout.commit_path(self.record.run, lang, shard))

    def committed(self) -> set[str]:
        """Return the keys of all shards of the run that are in the store, as one listing shows them."""
        with self._in_words():
            listed = self.storage.listing(f"{layout.COMMITS}/run={self.record.run}")
        return {layout.shard_key(*layout.shard_of(entry.path)[1:]) for entry in listed}

    def claim(self, lang: str, shard: int) -> bool:
        """Take a shard on; return False where it is in the store or another living process is doing it."""
        with self._in_words():
            if self.is_committed(lang, shard) or not self._claims.take(lang, shard):
                return False
            if self.is_committed(lang, shard):  # it was, between the two looks
                self._claims.release(lang, shard)
                return False
            return True

    def write(self, shard: Shard) -> CommitRecord:
        """Check, write and commit a shard; return its commit record, another process's if that was faster.

        Raises CaptureError, nothing written, where it is no trace of the run, and StoreError, nothing committed, where
        the disk is full or the store cannot be written.
        """
        check_shard(shard, self.record)
        precision = self.record.settings["weight_precision"]
        if self.record.settings.get("weight_precision_exact") and not all(
            lies_on(weights, precision) for weights in shard.weights
        ):
            raise CaptureError(
                f"{shard.lang} shard {shard.number}: weights do not lie on the {precision} grid that the run record "
                "promises; trace into a new run with --weight-precision f16"
            )
        return self._commit(shard.lang, shard.number, len(shard.lengths), shard.tokens, self._contents(shard))

    def write_counts(self, counts: Counts) -> CommitRecord:
        """Check, write and commit what is known of a language of which only counts were published."""
        check_counts(counts, self.record)
        table = tables(self.record.num_experts)["usage"]
        contents = iter([(table, count_rows(counts, self.record))])
        return self._commit(counts.lang, counts.number, counts.sequences, counts.tokens, contents)

    def _commit(self, lang: str, number: int, sequences: int, tokens: int, contents: Contents) -> CommitRecord:
        with self._in_words(), self.storage.staging() as staging:
            files = self._stage(staging, lang, number, contents)
            published = self._publish_all(staging, files)
            commit = CommitRecord(
                run=self.record.run,
                lang=lang,
                shard=number,
                run_sha256=self._run_sha256,
                sequences=sequences,
                tokens=tokens,
                files=tuple(published),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                version=FORMAT_VERSION,
            )
            path = layout.commit_path(commit.run, lang, number)
            made = self.storage.create(path, commit.to_json().encode())
            reach(FaultPoint.COMMITTED)
            stored = commit if made else CommitRecord.from_json(self.storage.read(path), f"{self.storage}: {path}")
            # A put that is tried again after its answer was lost finds its own record: file names are nobody else's.
            if stored.files != commit.files:
                self._remove(published)
            elif published != files:
                self._remove_leftovers(commit)
            self._claims.release(lang, number)
            reach(FaultPoint.RELEASED)
        return stored

    def _stage(self, staging: Path, lang: str, number: int, contents: Contents) -> list[FileRecord]:
        """Write every table of the shard, then wait for the disk once for all of them."""
        with ExitStack() as opened:
            written, files = [], []
            for table, groups in contents:
                file = opened.enter_context(HashedFile(staging / table.name))
                rows = write_parquet(file, table, groups)
                path = layout.data_path(table.name, self.record.run, lang, number)
                files.append(file.finish(path, table.name, rows))
                written.append(file)
            reach(FaultPoint.STAGED)
            for file in written:
                file.sync()
        reach(FaultPoint.SYNCED)
        return files

    def _publish_all(self, staging: Path, files: Sequence[FileRecord]) -> list[FileRecord]:
        """Give staged files their places; return their records. What is published is removed where one fails."""
        published: list[FileRecord] = []
        try:
            for file in files:
                published.append(self._publish(staging, file))
                reach(FaultPoint.PUBLISHED_FIRST)
        except (OSError, StoreError):
            with suppress(OSError, StoreError):
                self._remove(published)
            raise
        reach(FaultPoint.PUBLISHED)
        return published

    def _publish(self, staging: Path, file: FileRecord) -> FileRecord:
        """Give a staged file its place; another name where an attempt that died, or is as fast, has left one there."""
        staged, (run, lang, number) = staging / file.table, layout.shard_of(file.path)
        while not self.storage.publish(staged, file.path):
            file = replace(file, path=layout.data_path(file.table, run, lang, number, uuid.uuid4().hex[:8]))
        return file

    def _remove(self, files: Sequence[FileRecord]) -> None:
        for file in files:
            self.storage.delete(file.path)

    def _remove_leftovers(self, commit: CommitRecord) -> None:
        """Remove what other attempts at a shard left: now that it is committed, none of them can be."""
        mine = {file.path for file in commit.files}
        for file in commit.files:
            for entry in self.storage.listing(layout.shard_folder(file.table, commit.run, commit.lang)):
                if layout.shard_of(entry.path)[2] == commit.shard and entry.path not in mine:
                    self.storage.delete(entry.path)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn what the operating system refuses into one line."""
        try:
            yield
        except OSError as error:
            why = error.strerror or str(error)
            raise StoreError(
                f"{self.storage}: cannot be written ({why}); what was committed is safe, mend it and go on"
            ) from error

    def _contents(self, shard: Shard) -> Contents:
        """Yield each table of the run with its row groups; usage comes last, added up while routes are written."""
        record = self.record
        layer_rows = shard.tokens * record.top_k
        schemas = {**tables(record.num_experts), "routes": routes(record.num_experts, layer_rows)}
        precision = record.settings["weight_precision"]
        ranking = LayerRanking(shard.tokens, record.top_k, record.num_experts, precision)
        first = round_weights(shard.weights[0], precision)
        ranking.rank(shard.experts[0], first, np.arange(shard.tokens))
        order = token_order(shard.token_ids, ranking.experts, record.num_experts)
        rollup = UsageRollup(shard, record)
        makers: dict[str, Callable[[], RowGroups]] = {
            "sequences": lambda: _sequence_rows(shard, schemas["sequences"]),
            "tokens": lambda: _token_rows(shard, order, schemas["tokens"]),
            "routes": lambda: self._route_rows(shard, order, schemas["routes"], ranking, rollup),
            "profiles": lambda: self._profile_rows(shard, schemas["profiles"]),
            "usage": rollup.table,
        }
        if "routes" not in record.tables:
            for _ in makers["routes"]():
                pass
        for name, rows in makers.items():
            if name in record.tables:
                yield schemas[name], rows()

    def _route_rows(
        self, shard: Shard, order: npt.NDArray[np.intp], table: Table, ranking: LayerRanking, rollup: UsageRollup
    ) -> RowGroups:
        """Yield one row group a layer, sorted by rank, then token, and add each layer to the roll-up.

        Every row group is the same table, a view of memory that the next layer overwrites: write it before asking on.
        """
        count, top_k = shard.tokens, self.record.top_k
        layer_of = np.empty(count * top_k, dtype=np.uint16)
        token = np.tile(np.arange(count, dtype=np.int32), top_k)
        rank = np.repeat(np.arange(top_k, dtype=np.uint8), count)
        rounded = np.empty((top_k, count), dtype=np.float32)
        columns: list[npt.NDArray[Any]] = [layer_of, token, rank, ranking.experts.ravel(), ranking.weights.ravel()]
        rows = pa.Table.from_arrays(
            [
                pa.Array.from_buffers(field.type, len(values), [None, pa.py_buffer(values)])
                for field, values in zip(table.schema, columns, strict=True)
            ],
            schema=table.schema,
        )
        for index, layer in enumerate(self.record.moe_layers):
            captured = shard.experts[index]
            round_weights(shard.weights[index], self.record.settings["weight_precision"], out=rounded)
            rollup.add_layer(captured, rounded)
            ranking.rank(captured, rounded, order)
            layer_of.fill(layer)
            yield rows

    def _profile_rows(self, shard: Shard, table: Table) -> RowGroups:
        """Yield rows by layer, sequence, expert; a row group has as many layers as are worth its overhead."""
        if shard.profiles is None:
            raise CaptureError(
                f"{shard.lang} shard {shard.number}: the run record promises profiles, none were captured"
            )
        texts, size = len(shard.seqs), self.record.num_experts
        together = max(1, PROFILE_ROWS // (texts * size))
        expert = np.tile(np.arange(size, dtype=table.schema.field("expert").type.to_pandas_dtype()), texts)
        seq = np.repeat(shard.seqs.astype(np.int32), size)
        for start in range(0, len(self.record.moe_layers), together):
            layers = np.array(self.record.moe_layers[start : start + together], dtype=np.uint16)
            probability = shard.profiles[start : start + together].ravel()
            columns = [
                np.tile(seq, len(layers)),
                np.repeat(layers, len(seq)),
                np.tile(expert, len(layers)),
                probability,
            ]
            yield _table(table, columns)


def _sequence_rows(shard: Shard, table: Table) -> RowGroups:
    generated = np.zeros(len(shard.seqs), np.int32) if shard.generated is None else shard.generated
    written = [None] * len(shard.seqs) if shard.texts is None else shard.texts
    yield _table(table, [shard.seqs, shard.text_ids, shard.lengths, shard.truncated, generated, written])


def _token_rows(shard: Shard, order: np.ndarray, table: Table) -> RowGroups:
    seq = shard.seqs[shard.sequence_of_token()]
    number = np.arange(shard.tokens, dtype=np.int32)
    token_ids = pa.nulls(shard.tokens) if shard.token_ids is None else shard.token_ids[order]
    yield _table(table, [number, seq[order], shard.positions()[order], token_ids, shard.generated_tokens()[order]])


def _table(table: Table, columns: Sequence[object]) -> pa.Table:
    arrays = [pa.array(values, field.type) for values, field in zip(columns, table.schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def open_or_create(storage: Storage) -> None:
    """Make sure that shards can be written; raise StoreError where the place is no store or cannot be written."""
    try:
        there = storage.has(layout.FORMAT) or not _create_format(storage)
    except OSError as error:
        raise StoreError(f"{storage}: cannot be written ({error.strerror or error})") from error
    if there:
        version = read_format(storage)["version"]
        if version < FORMAT_VERSION:
            raise StoreError(
                f"{storage}: was made in format version {version}, this moetrace writes {FORMAT_VERSION}; "
                f"`moetrace upgrade {storage}` first"
            )


def _create_format(storage: Storage) -> bool:
    """Make a store of an empty place; return False where another process was faster."""
    if storage.exists() and not storage.has(layout.FORMAT):
        raise StoreError(f"{storage}: is not empty and not a moetrace store; choose an empty or a new folder")
    content = f'{{"format": "moetrace-store", "version": {FORMAT_VERSION}}}\n'
    made = storage.create(layout.FORMAT, content.encode())
    reach(FaultPoint.FORMAT_WRITTEN)
    return made
