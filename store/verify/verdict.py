"""What a check of a store found, and what a repair would do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moetrace.store.errors import UnreadableError

if TYPE_CHECKING:
    from moetrace.store.storage.base import Entry


@dataclass(frozen=True)
class Problem:
    """Something wrong with one shard, or with a record.

    - commit: the commit record of the shard it is of
    - passing: it could not be read, which may pass and says nothing of what is written: a repair leaves it alone
    """

    path: str
    what: str
    commit: str | None = None
    passing: bool = False


@dataclass(frozen=True)
class Repair:
    """What a repair does: moves `moves` to quarantine/, by path with the reason, and writes `writes`, by path.

    `says` is what a person is told. `claim` is the claim whose living process keeps the repair off.
    """

    says: str
    moves: dict[str, str] = field(default_factory=dict)
    writes: dict[str, bytes] = field(default_factory=dict)
    claim: str | None = None


@dataclass(frozen=True)
class RunProgress:
    """How many of the planned shards of a run are there; the keys of the first of those that are not."""

    run: str
    there: int
    planned: int
    missing: tuple[str, ...]


@dataclass
class Verdict:
    """What a check found.

    - shards, files, bytes: what was checked
    - problems: what is wrong, shard by shard; none in a good store
    - repairs: what `repair` does, or would do, about it
    - runs: how many planned shards of each run are there, where it was planned
    - orphans: data files that no commit record names, left by a writer that died or is at work; they do no harm
    - unfinished: folders of shards that were being written; claims: shards that a living process is doing
    - notes: what costs time and no more, such as roll-ups that were added up of other shards
    - ignored: files that no store has, and that nothing reads
    - failed: texts that were set aside, by the path of their record
    - seen: the files as they were looked at, by path
    - done: what a repair did; left: what it left alone, and why
    - quarantine: the folder that it moved files to; empty where it moved none
    """

    shards: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    runs: list[RunProgress] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    seen: dict[str, Entry] = field(default_factory=dict, repr=False)
    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    quarantine: str = ""


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def is_passing(error: Exception) -> bool:
    """Tell whether an error is of the reading, not of what is written."""
    return isinstance(error, UnreadableError) or (
        isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, NotADirectoryError))
    )
