"""Reading a store: what is in it is what its commit records name, never a glob of data files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from store import layout
from store.errors import StoreError, UnknownNameError
from store.records import CommitRecord, RunRecord
from store.schema import FORMAT_VERSION


@dataclass(frozen=True)
class ShardFile:
    """One committed data file and where its rows belong."""

    run: str
    lang: str
    shard: int
    table: str
    path: Path
    rows: int


class Store:
    """A store on disk, read-only; the view is of the moment it is first looked at."""

    def __init__(self, path: str | Path) -> None:
        """Open a store; raise StoreError if there is none at `path` or its format is newer than this version reads."""
        self.root = Path(path)
        self.version = read_format(self.root)

    @cached_property
    def runs(self) -> dict[str, RunRecord]:
        """Return the run records by name, sorted."""
        paths = sorted((self.root / "runs").glob("*.json"))
        records = [
            RunRecord.from_json(path.read_text(encoding="utf-8"), str(path)) for path in paths if path.name[0] != "."
        ]
        return {record.run: record for record in records}

    def run(self, name: str | None = None) -> RunRecord:
        """Return a run's record; without a name, the only run's. Raise UnknownNameError otherwise."""
        if name is None:
            if len(self.runs) != 1:
                raise UnknownNameError(
                    f"{self.root} has {len(self.runs)} runs ({', '.join(self.runs)}); say which with --run"
                )
            return next(iter(self.runs.values()))
        if name not in self.runs:
            raise UnknownNameError.among("run", name, self.runs, str(self.root))
        return self.runs[name]

    @cached_property
    def commits(self) -> list[CommitRecord]:
        """Return the commit record of every shard that is in the store, by run, language and shard."""
        return [
            CommitRecord.from_json(path.read_text(encoding="utf-8"), str(path))
            for run in self.runs
            for path in sorted(layout.commit_folder(self.root, run).glob("lang=*/[0-9]*.json"))
        ]

    def traced_at(self, run: str) -> str:
        """Return the time of the run's newest commit, ISO 8601; raise StoreError where it has none."""
        times = [commit.created for commit in self.commits if commit.run == run]
        if not times:
            raise StoreError(f"{self.root}: run '{run}' has no finished shard yet; trace it first")
        return max(times)

    def languages(self, run: str) -> list[str]:
        """Return the languages of which at least one shard is committed."""
        return sorted({commit.lang for commit in self.commits if commit.run == run})

    def files(self, table: str) -> list[ShardFile]:
        """Return the committed files of a table over all runs."""
        return [
            ShardFile(commit.run, commit.lang, commit.shard, table, self.root / file.path, file.rows)
            for commit in self.commits
            for file in commit.files
            if file.table == table
        ]


def read_format(root: Path) -> int:
    """Return the store's format version, or raise StoreError saying why it cannot be read."""
    path = layout.format_file(root)
    if not root.is_dir():
        raise StoreError(f"{root}: no such store; make one with `moetrace trace` or `moetrace demo`")
    if not path.is_file():
        raise StoreError(f"{root}: not a moetrace store (no store.json)")
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged; it should hold the store's format version") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreError(
            f"{root}: format version {version}, this moetrace reads up to {FORMAT_VERSION}; upgrade moetrace"
        )
    return version
