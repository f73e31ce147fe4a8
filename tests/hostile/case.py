"""One hostile store where it can do harm: beside it lie files that nobody who reads it may touch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.store.format.blocks import BlockChecksums
from moetrace.store.format.records import RunRecord
from moetrace.store.format.sealed import CHECKSUM, digest
from moetrace.store.write.compact import compact
from tests.support.records import change_record, read_record, write_record
from tests.support.stores import Store, make_record, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pyarrow as pa

SECRET = "the-secret-of-the-canary"  # noqa: S105  a secret of nobody
LOOT = "loot"  # in the name of whatever hostile SQL would write
RUN = "runs/run.json"
COPY = "commits/run=run/run.json"
COMMIT = "commits/run=run/lang=deu_Latn/00000.json"
OTHER_COMMIT = "commits/run=run/lang=eng_Latn/00000.json"
INDEX = "compact/run=run.json"


def make_good(store: Path) -> None:
    """Make the store that all hostile ones were once: two runs, one of them compacted."""
    write_world(store, make_world(1, make_record(), texts=4))
    write_world(store, make_world(2, make_record("general", ("deu_Latn", "eng_Latn")), texts=3))
    compact(Store(store), "run")


@dataclass(frozen=True)
class Case:
    """A folder with a store, and with the canary: what a hostile store may point at and nobody may touch.

    Commands run in `work`, from where the canary is `../../canary`, as it is from a folder of the store.
    """

    folder: Path
    good: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def work(self, command: str) -> Path:
        return self.folder / "work" / command

    def make_canary(self) -> None:
        self.canary.mkdir(parents=True)
        (self.canary / "secret.txt").write_text(f"{SECRET}\n")
        (self.canary / "secret.csv").write_text(f"a,b\n{SECRET},1\n")
        (self.canary / "secret.json").write_text(json.dumps({"run": SECRET}))
        shutil.copytree(self.good, self.canary / "store")

    def make_store(self, build: Callable[[Case], object]) -> None:
        """Make the store anew: a copy of the good one, its times kept, then changed."""
        self.remove_store()
        shutil.copytree(self.good, self.store)
        build(self)

    def remove_store(self) -> None:
        if self.store.is_symlink():
            self.store.unlink()
        shutil.rmtree(self.store, ignore_errors=True)

    # What changes a store. A stranger knows how records prove themselves.

    def change(self, path: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a record, and its checksum with it."""
        change_record(self.store / path, change)

    def fields(self, path: str, **fields: Any) -> None:
        self.change(path, lambda record: record.update(fields))

    def consistently(self, change: Callable[[dict[str, Any]], object], run: str = "run") -> None:
        """Change a run record, its copy, and what every commit says of it."""
        for path in (f"runs/{run}.json", f"commits/run={run}/run.json"):
            content = read_record(self.store / path)
            change(content)
            write_ascii(self.store / path, content)
        sha256 = RunRecord(**content).sha256()
        for path in self.store.glob(f"commits/run={run}/lang=*/*.json"):
            change_record(path, lambda record: record.update(run_sha256=sha256))
        index = self.store / f"compact/run={run}.json"
        if index.exists():  # of the record as it was
            index.unlink()
            with suppress(MoetraceError):
                compact(Store(self.store), run)

    def write(self, path: str, content: str | bytes) -> None:
        place = self.store / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    def write_json(self, path: str, content: Mapping[str, Any]) -> None:
        write_record(self.store / path, dict(content))

    def remove(self, path: str) -> None:
        place = self.store / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def link(self, path: str, to: str) -> None:
        """Put a symbolic link in the place of a file or a folder; `to` as it is from the folder of the case."""
        self.remove(path)
        place = self.store / path
        place.parent.mkdir(parents=True, exist_ok=True)
        target = to if to.startswith("/") else os.path.relpath(self.folder / to, place.parent)
        place.symlink_to(target)

    def pipe(self, path: str) -> None:
        self.remove(path)
        os.mkfifo(self.store / path)

    def data(self, table: str, content: bytes, commit: str = COMMIT, **fields: Any) -> None:
        """Put other bytes in the place of a data file, and right checksums in its record."""
        path = next(file["path"] for file in read_record(self.store / commit)["files"] if file["table"] == table)
        self.write(path, content)
        known = {**file_facts(content), **fields}
        self.change(
            commit,
            lambda record: [file.update(known) for file in record["files"] if file["table"] == table],
        )

    def parquet(self, table: str, change: Callable[[pa.Table], pa.Table], commit: str = COMMIT, **fields: Any) -> None:
        """Put another table in the place of a data file, and right checksums and rows in its record."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = next(file["path"] for file in read_record(self.store / commit)["files"] if file["table"] == table)
        changed = change(pq.read_table(self.store / path, partitioning=None))
        sink = pa.BufferOutputStream()
        pq.write_table(changed, sink)
        self.data(table, sink.getvalue().to_pybytes(), commit, **fields)


def write_ascii(path: Path, content: dict[str, Any]) -> None:
    """Write a sealed record in which every character stands escaped, also such as UTF-8 does not have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, CHECKSUM: digest(content)}))


def file_facts(content: bytes) -> dict[str, Any]:
    blocks = BlockChecksums()
    blocks.update(content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "crc32": blocks.hex()}
