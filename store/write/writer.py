"""Writing shards: data files first, the commit record last, each staged, synced and given its place whole.

A shard is in the store when its commit record is; whatever happens before that leaves nothing a reader sees. Only one
process can create a commit record; whoever comes second throws its copy away. The run record is written with the first
shard that is accepted: a first attempt that fails leaves a name free.
"""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from moetrace.store.errors import CaptureError, StoreError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.plan_record import FailedRecord, PlanRecord
from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
from moetrace.store.format.schema import FORMAT_VERSION, tables
from moetrace.store.format.weights import lies_on
from moetrace.store.read.store_format import format_text, read_format
from moetrace.store.shard.counts import Counts, check_counts, count_rows
from moetrace.store.shard.shard import Shard, check_shard
from moetrace.store.storage.attempts import Attempts
from moetrace.store.storage.base import Storage
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.faults import FaultPoint, reach
from moetrace.store.storage.open import open_storage
from moetrace.store.write.encode import shard_tables
from moetrace.store.write.files import HashedFile, write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moetrace.store.format.attempts_record import AttemptsRecord
    from moetrace.store.format.plan_record import FailedText, PlannedShards
    from moetrace.store.write.encode import TableRows


class StoreWriter:
    """Writes the shards of one run into a store, which is made if it does not exist.

    Used as a context, or closed, it gives back the claims it holds.
    """

    def __init__(self, place: str | Path | Storage, record: RunRecord, plan: PlannedShards | None = None) -> None:
        """Open the run.

        plan: texts and tokens of each shard of each language, where they are known, to be written beside the record

        Raises RunMismatchError where the store has the run with another record, StoreError where the place is no store,
        or the record none that can be read again.
        """
        self.storage = place if isinstance(place, Storage) else open_storage(place)
        record.check(f"the record of run '{record.run}'")
        self.record = record
        self._plan = plan
        self._recorded = self._swept = False
        with self._as_store_errors():
            open_or_create(self.storage)
            if self.storage.has(layout.run_path(record.run)):
                self.record = self._stored_record(record)
        self._run_sha256 = self.record.sha256()
        self._claims = Claims(self.storage, record.run, self._run_sha256)
        self.attempts = Attempts(self.storage, record.run, self._run_sha256)
        self._set_aside: set[str] | None = None  # paths of records of them, as they were first listed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the claims on shards that were not written."""
        with self._as_store_errors():
            self._claims.close()

    def is_committed(self, lang: str, shard: int) -> bool:
        """Tell whether the shard is in the store."""
        with self._as_store_errors():
            return self.storage.has(layout.commit_path(self.record.run, lang, shard))

    def committed(self) -> set[str]:
        """Return the keys of all shards of the run that are in the store, as one listing shows them."""
        with self._as_store_errors():
            return committed_shards(self.storage, self.record.run)

    def claim(self, lang: str, shard: int) -> bool:
        """Take a shard on; return False where it is in the store or another living process is doing it."""
        with self._as_store_errors():
            if self.is_committed(lang, shard) or not self._claims.take(lang, shard):
                return False
            if not self._swept:
                self.storage.sweep()  # what processes left that are gone
                self._swept = True
            if self.is_committed(lang, shard):  # it was, between the two looks
                self._claims.release(lang, shard)
                return False
            return True

    def take_up(self, lang: str, shard: int, texts: int) -> AttemptsRecord:
        """Return what is known of attempts at a shard that was claimed; a death of who had it before is noted."""
        died = self._claims.took_over(lang, shard)
        return self.attempts.take_up(lang, shard, texts, died=died)

    def is_left_behind(self, lang: str, shard: int) -> bool:
        """Tell whether a shard that was claimed was another process's that died."""
        return self._claims.took_over(lang, shard)

    def release(self, lang: str, shard: int) -> None:
        """Give the claim on a shard back."""
        with self._as_store_errors():
            self._claims.release(lang, shard)

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
        return self._commit(
            shard.lang,
            shard.number,
            len(shard.lengths),
            shard.tokens,
            shard_tables(shard, self.record),
            set_aside=shard.set_aside,
        )

    def write_counts(self, counts: Counts) -> CommitRecord:
        """Check, write and commit what is known of a language of which only counts were published."""
        check_counts(counts, self.record)
        table = tables(self.record.num_experts)["usage"]
        contents = iter([(table, count_rows(counts, self.record))])
        return self._commit(counts.lang, counts.number, counts.sequences, counts.tokens, contents)

    def _commit(
        self,
        lang: str,
        number: int,
        sequences: int,
        tokens: int,
        contents: TableRows,
        *,
        set_aside: Sequence[FailedText] = (),
    ) -> CommitRecord:
        with self._as_store_errors(), self.storage.staging() as staging:
            files = self._stage(staging, lang, number, contents)
            self._write_run_record()
            self._write_failed(FailedRecord(self.record.run, lang, number, self._run_sha256, tuple(set_aside)))
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
            commit.check_under(self.record, f"{self.storage}: {path}")
            made = self.storage.create(path, commit.to_json().encode())
            reach(FaultPoint.COMMITTED)
            stored = commit if made else self._stored_commit(path)
            # A put that is tried again after its answer was lost finds its own record: file names are nobody else's.
            if stored.files != commit.files:
                self._remove(published)
            elif published != files:
                self._remove_leftovers(commit)
            self.attempts.forget(lang, number)
            self._claims.release(lang, number)
            reach(FaultPoint.RELEASED)
        return stored

    def _write_failed(self, failed: FailedRecord) -> None:
        """Write which texts of a shard are set aside; take away what an earlier attempt said of one that sets none."""
        path = layout.failed_path(failed.run, failed.lang, failed.shard)
        if self._set_aside is None:
            listed = self.storage.entries(f"{layout.FAILED}/run={failed.run}")
            self._set_aside = {entry.path for entry in listed}
        if failed.texts:
            self.storage.replace(path, failed.to_json().encode())
            self._set_aside.add(path)
        elif path in self._set_aside:
            self.storage.delete(path)

    def _write_run_record(self) -> None:
        """Write the run record, a copy of it beside the commits, and the plan, where nobody has.

        Raises RunMismatchError where another process was faster, with another record.
        """
        if self._recorded:
            return
        run, content = self.record.run, self.record.to_json().encode()
        if not self.storage.create(layout.run_path(run), content):
            self.record = self._stored_record(self.record)
            content = self.record.to_json().encode()
        if not self.storage.has(layout.run_copy_path(run)):
            self.storage.create(layout.run_copy_path(run), content)
        if self._plan is not None and not self.storage.has(layout.plan_path(run)):
            plan = PlanRecord(run, self.record.sha256(), self._plan)
            self.storage.create(layout.plan_path(run), plan.to_json().encode())
        self._recorded = True
        reach(FaultPoint.RUN_WRITTEN)

    def _stored_record(self, record: RunRecord) -> RunRecord:
        """Return the run record that the store has; raise RunMismatchError where it is another than `record`."""
        path = layout.run_path(record.run)
        stored = RunRecord.from_json(self.storage.read(path), f"{self.storage}: {path}", sealed=True)
        if stored.run != record.run:
            raise StoreError(f"{self.storage}: {path}: run: is the record of '{stored.run}'")
        stored.require_same(record)
        return stored

    def _stored_commit(self, path: str) -> CommitRecord:
        commit = CommitRecord.from_json(self.storage.read(path), f"{self.storage}: {path}", sealed=True)
        commit.check_under(self.record, f"{self.storage}: {path}")
        return commit

    def _stage(self, staging: Path, lang: str, number: int, contents: TableRows) -> list[FileRecord]:
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
        staged, plain = staging / file.table, file.path.removesuffix(".parquet")
        while not self.storage.publish(staged, file.path):
            file = replace(file, path=f"{plain}-{uuid.uuid4().hex[:8]}.parquet")
        return file

    def _remove(self, files: Sequence[FileRecord]) -> None:
        for file in files:
            self.storage.delete(file.path)

    def _remove_leftovers(self, commit: CommitRecord) -> None:
        """Remove what other attempts at a shard left: now that it is committed, none of them can be."""
        mine = {file.path for file in commit.files}
        for file in commit.files:
            for entry in self.storage.listing(layout.shard_folder(file.table, commit.run, commit.lang)):
                shard = layout.shard_of(entry.path)
                if shard and shard[2] == commit.shard and entry.path not in mine:
                    self.storage.delete(entry.path)

    def _as_store_errors(self) -> AbstractContextManager[None]:
        return as_store_errors(self.storage, "written", "; what was committed is safe, mend it and go on")


def committed_shards(storage: Storage, run: str) -> set[str]:
    """Return the keys of all shards of a run that are in a store, as one listing shows them."""
    listed = storage.listing(f"{layout.COMMITS}/run={layout.checked_run(run)}")
    return {layout.shard_key(*shard[1:]) for entry in listed if (shard := layout.shard_of(entry.path))}


def open_or_create(storage: Storage) -> None:
    """Make sure that shards can be written; raise StoreError where the place is no store or cannot be written."""
    with as_store_errors(storage, "written"):
        there = storage.has(layout.FORMAT) or not _create_format(storage)
    if there:
        version = read_format(storage).version
        if version < FORMAT_VERSION:
            raise StoreError(
                f"{storage}: was made in format version {version}, this moetrace writes {FORMAT_VERSION}; "
                f"`moetrace upgrade {storage}` first"
            )


def _create_format(storage: Storage) -> bool:
    """Make a store of an empty place; return False where another process was faster."""
    if storage.exists() and not storage.has(layout.FORMAT):
        raise StoreError(f"{storage}: is not empty and not a moetrace store; choose an empty or a new folder")
    made = storage.create(layout.FORMAT, format_text().encode())
    reach(FaultPoint.FORMAT_WRITTEN)
    return made
