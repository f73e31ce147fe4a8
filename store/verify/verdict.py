"""What a check of a store found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """Something wrong with one shard, or with a record."""

    path: str
    what: str
    commit: str | None = None


@dataclass
class Verdict:
    """What a check found.

    - shards, files, bytes: what was checked
    - problems: what is wrong, shard by shard; none in a good store
    - orphans: data files that no commit record names, left by a writer that died or is at work; they do no harm
    - unfinished: folders of shards that were being written; claims: shards that a living process is doing
    - dropped: commit records that were removed so that the next trace does those shards again
    """

    shards: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
