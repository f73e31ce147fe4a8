"""Writing shards: data files first, the commit record last, each staged, synced and renamed.

A shard is in the store when its commit record is; whatever happens before that leaves nothing a reader sees.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import layout
from store.errors import CaptureError, StoreError
from store.files import PAGE_ROWS, HashedFile, sync_folder, write_durably, write_parquet
from store.ranking import LayerRanking
from store.reader import Store, read_format
from store.records import CommitRecord, FileRecord, RunRecord
from store.rollup import UsageRollup
from store.schema import FORMAT_VERSION, Table, tables
from store.shard import Shard, check_shard, token_order
from store.weights import lies_on, round_weights

PROFILE_ROWS = 1 << 17  # of a row group

RowGroups = Iterator[pa.Table]


class StoreWriter:
    """Writes the shards of one run into a store, which is made if it does not exist."""

    def __init__(self, path: str | Path, record: RunRecord) -> None:
        """Open the run.

        Raises RunMismatchError where the store has it with another record, StoreError where the path is no store.
        """
        self.root = Path(path)
        self.record = record
        for lang in record.corpus["languages"]:
            layout.checked_language(lang)
        with _in_words(self.root):
            _open_or_create(self.root)
            run_file = layout.run_file(self.root, record.run)
            if run_file.exists():
                stored = Store(self.root).run(record.run)
                stored.require_same(record)
                self.record = stored
            else:
                write_durably(run_file, record.to_json().encode())
        self._run_sha256 = self.record.sha256()

    def is_committed(self, lang: str, shard: int) -> bool:
        """Tell whether the shard is in the store."""
        return layout.commit_file(self.root, self.record.run, lang, shard).exists()

    def write(self, shard: Shard) -> CommitRecord:
        """Check, write and commit a shard.

        Raises CaptureError, nothing written, where it is no trace of the run, and StoreError, nothing committed, where
        the disk is full or the store cannot be written.
        """
        check_shard(shard, self.record)
        precision = self.record.settings["weight_precision"]
        if self.record.settings.get("weight_precision_exact") and not all(
            lies_on(shard.weights[:, index].T, precision) for index in range(len(self.record.moe_layers))
        ):
            raise CaptureError(
                f"{shard.lang} shard {shard.number}: weights do not lie on the {precision} grid that the run record "
                "promises; trace into a new run with --weight-precision f16"
            )
        with _in_words(self.root):
            return self._commit(shard)

    def _commit(self, shard: Shard) -> CommitRecord:
        staging = layout.staging_folder(self.root) / f"{os.getpid()}-{uuid.uuid4().hex}"
        staging.mkdir(parents=True)
        try:
            files = self._stage(staging, shard)
            for file in files:
                _publish(staging / f"{file.table}.parquet", self.root / file.path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        commit = CommitRecord(
            run=self.record.run,
            lang=shard.lang,
            shard=shard.number,
            run_sha256=self._run_sha256,
            sequences=len(shard.lengths),
            tokens=shard.tokens,
            files=tuple(files),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_durably(layout.commit_file(self.root, commit.run, commit.lang, commit.shard), commit.to_json().encode())
        return commit

    def _stage(self, staging: Path, shard: Shard) -> list[FileRecord]:
        """Write every table of the shard, then wait for the disk once for all of them."""
        # Ranks differ in their weights: whole ranks to a page compress best, one a page where it has enough rows.
        page_rows = shard.tokens * -(-PAGE_ROWS // shard.tokens)
        with ExitStack() as opened:
            written, files = [], []
            for table, groups in self._contents(shard):
                file = opened.enter_context(HashedFile(staging / f"{table.name}.parquet"))
                rows = write_parquet(file, table, groups, page_rows)
                digest = file.finish()
                name = layout.data_path(table.name, self.record.run, shard.lang, shard.number)
                written.append(file)
                files.append(FileRecord(name, table.name, rows, file.bytes, digest))
            for file in written:
                file.sync()
        return files

    def _contents(self, shard: Shard) -> Iterator[tuple[Table, RowGroups]]:
        """Yield each table of the run with its row groups; usage comes last, added up while routes are written."""
        record = self.record
        schemas = tables(record.num_experts)
        precision = record.settings["weight_precision"]
        ranking = LayerRanking(shard.tokens, record.top_k, record.num_experts, precision)
        first = round_weights(shard.weights[:, 0].T, precision)
        ranking.rank(shard.experts[:, 0].T, first, np.arange(shard.tokens))
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
            captured = shard.experts[:, index].T
            round_weights(shard.weights[:, index].T, self.record.settings["weight_precision"], out=rounded)
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
        by_layer = shard.profiles.transpose(1, 0, 2)
        for start in range(0, len(self.record.moe_layers), together):
            layers = np.array(self.record.moe_layers[start : start + together], dtype=np.uint16)
            probability = by_layer[start : start + together].ravel()
            columns = [
                np.tile(seq, len(layers)),
                np.repeat(layers, len(seq)),
                np.tile(expert, len(layers)),
                probability,
            ]
            yield _table(table, columns)


@contextmanager
def _in_words(root: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one line."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{root}: cannot be written ({why}); what was committed is safe, mend it and go on") from error


def _sequence_rows(shard: Shard, table: Table) -> RowGroups:
    generated = np.zeros(len(shard.seqs), np.int32) if shard.generated is None else shard.generated
    written = [None] * len(shard.seqs) if shard.texts is None else shard.texts
    yield _table(table, [shard.seqs, shard.text_ids, shard.lengths, shard.truncated, generated, written])


def _token_rows(shard: Shard, order: np.ndarray, table: Table) -> RowGroups:
    seq = shard.seqs[shard.sequence_of_token()]
    number = np.arange(shard.tokens, dtype=np.int32)
    columns = [seq, shard.positions(), shard.token_ids, shard.generated_tokens()]
    yield _table(table, [number, *(values[order] for values in columns)])


def _table(table: Table, columns: Sequence[object]) -> pa.Table:
    arrays = [pa.array(values, field.type) for values, field in zip(columns, table.schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _open_or_create(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root}: is a file, not a store; choose another --store")
    if layout.format_file(root).exists():
        version = read_format(root)
        if version < FORMAT_VERSION:
            raise StoreError(
                f"{root}: was made in format version {version}, this moetrace writes {FORMAT_VERSION}; it can be read, "
                "but trace into a new store"
            )
        return
    if root.exists() and any(root.iterdir()):
        raise StoreError(f"{root}: is not empty and not a moetrace store; choose an empty or a new folder")
    write_durably(layout.format_file(root), f'{{"format": "moetrace-store", "version": {FORMAT_VERSION}}}\n'.encode())


def _publish(staged: Path, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(final)
    sync_folder(final.parent)
