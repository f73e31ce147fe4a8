"""In which phase of a commit a process was killed, told by what it left in the store."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

PHASES = (
    "starting",  # until its first claim
    "claimed",  # the engine runs, the file is parsed
    "staging",
    "staged",  # all tables are: syncing, or about to publish
    "publishing",
    "published",  # all tables are: the commit record is being written
    "committed",  # the claim is still there
    "between shards",
)


@dataclass
class Leftovers:
    """What lies in a store after each kill, so that what the next one leaves is known from it."""

    place: str
    tables: int  # of a shard
    known: set[str] = field(default_factory=set)

    def phase(self, pid: int, scratch: Path, *, had_begun: bool) -> str:
        """Return where the process was; `scratch` is the folder for temporary files that only it had."""
        paths = set(self._paths())
        new, self.known = paths - self.known, paths
        staged = [
            path for folder in self._staging(pid, scratch) for path in folder.glob("*") if path.name in TABLE_NAMES
        ]
        phases = [self._phase_of_shard(shard, paths, new) for shard in self._claimed_by(pid, paths)]
        found = max(phases, key=PHASES.index, default="between shards" if had_begun else "starting")
        if found == "claimed" and staged:
            whole = len(staged) == self.tables and all(path.stat().st_size for path in staged)
            return "staged" if whole else "staging"
        return found

    def _phase_of_shard(self, shard: tuple[str, str, int], paths: set[str], new: set[str]) -> str:
        if layout.commit_path(*shard) in paths:
            return "committed"
        published = sum(
            path.endswith(".parquet") and path.split("/")[0] in TABLE_NAMES and layout.shard_of(path) == shard
            for path in new
        )
        if not published:
            return "claimed"
        return "publishing" if published < self.tables else "published"

    def _claimed_by(self, pid: int, paths: set[str]) -> Iterator[tuple[str, str, int]]:
        for path in paths:
            if path.startswith(f"{layout.CLAIMS}/") and path.endswith(".json"):
                try:
                    owner = json.loads(open_storage(self.place).read(path)).get("process")
                except (OSError, ValueError, StoreError):
                    continue  # given back meanwhile
                shard = layout.shard_of(path)
                if owner == pid and shard:
                    yield shard

    def _paths(self) -> Iterator[str]:
        """Yield the files that are there; a listing of a storage would not bear those that vanish meanwhile."""
        if "://" in self.place:
            yield from (entry.path for entry in open_storage(self.place).listing())
            return
        for folder, _, names in os.walk(self.place):
            yield from (str(Path(folder, name).relative_to(self.place)) for name in names)

    def _staging(self, pid: int, scratch: Path) -> list[Path]:
        return [*Path(self.place, "staging").glob(f"{pid}-*"), *scratch.glob("moetrace-*")]
