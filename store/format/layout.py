"""Where things are in a store, relative to it, and which names may become part of a path.

Every path that a store's storage reads, writes, moves or deletes is held against `place_of`: nothing else is of a
store, whatever a record of it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from moetrace.store.errors import StoreError

SHARD_TOKENS = 32768  # that make a shard, unless a run says otherwise

TABLE_NAMES = ("routes", "tokens", "sequences", "profiles", "usage")

FORMAT = "store.json"
RUNS = "runs"
COMMITS = "commits"
CLAIMS = "claims"
PLAN = "plan"
FAILED = "failed"
ATTEMPTS = "attempts"
COMPACT = "compact"
STAGING = "staging"
QUARANTINE = "quarantine"
REASONS = "reasons.json"

LANGUAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(?<![.]json)")  # runs/a.json is of run a

_SHARD = r"run=(?P<run>[^/]+)/lang=(?P<lang>[^/]+)/(?P<shard>[0-9]{5,9})"
_RUN = r"run=(?P<run>[^/]+)"
_SHAPES = {  # by top folder
    FORMAT: re.compile(r"(?P<kind>store)[.]json"),
    RUNS: re.compile(r"(?P<kind>runs)/(?P<run>[^/]+)[.]json"),
    COMMITS: re.compile(rf"(?P<kind>commits)/(?:{_SHARD}|run=(?P<of_run>[^/]+)/run)[.]json"),
    PLAN: re.compile(rf"(?P<kind>plan)/{_RUN}[.]json"),
    COMPACT: re.compile(rf"(?P<kind>compact)/(?:{_RUN}[.]json|run=(?P<of_run>[^/]+)/[0-9a-f]{{32}}[.]parquet)"),
    QUARANTINE: re.compile(
        rf"(?P<kind>quarantine)/[0-9]{{8}}T[0-9]{{6}}Z-[0-9a-f]{{8}}/(?:{REASONS}|(?P<of>(?!quarantine/).+))"
    ),
    **{name: re.compile(rf"(?P<kind>{name})/{_SHARD}[.]json") for name in (CLAIMS, FAILED, ATTEMPTS)},
    **{name: re.compile(rf"(?P<kind>{name})/{_SHARD}(?:-[0-9a-f]{{8}})?[.]parquet") for name in TABLE_NAMES},
}


@dataclass(frozen=True)
class Place:
    """What a path of a store is: its top folder, and the run, language and shard it belongs to, where it does."""

    kind: str
    run: str | None = None
    lang: str | None = None
    shard: int | None = None


@lru_cache(maxsize=1 << 16)
def place_of(path: str) -> Place | None:
    """Return what a path, relative to a store, is of it; None where no store has it."""
    shape = _SHAPES.get(path.partition("/")[0])
    match = shape.fullmatch(path) if shape else None
    if match is None:
        return None
    parts = match.groupdict()
    parts["run"] = parts.get("run") or parts.get("of_run")
    run, lang, shard = parts.get("run"), parts.get("lang"), parts.get("shard")
    if (
        (run is not None and not RUN_NAME.fullmatch(run))
        or (lang is not None and not LANGUAGE_NAME.fullmatch(lang))
        or (shard is not None and f"{int(shard):05d}" != shard)
        or (parts.get("of") and place_of(parts["of"]) is None)
    ):
        return None
    return Place(parts["kind"], run, lang, None if shard is None else int(shard))


def shard_of(path: str) -> tuple[str, str, int] | None:
    """Return run, language and number of the shard that a file belongs to; None where it is of none."""
    place = place_of(path)
    if place is None or place.run is None or place.lang is None or place.shard is None:
        return None
    return place.run, place.lang, place.shard


def checked_path(path: str) -> str:
    """Return `path`, or raise StoreError where no store has such a path."""
    if place_of(path) is None:
        raise StoreError(f"{path!r}: is no path of a store")
    return path


def checked_language(name: str) -> str:
    """Return `name`, or raise StoreError where it is not letters, digits, `_` and `-`, the first a letter or digit."""
    if not LANGUAGE_NAME.fullmatch(name):
        raise StoreError(
            f"language code {name!r}: only letters, digits, '_' and '-' are allowed (at most 64), a letter or digit "
            "first; rename it"
        )
    return name


def checked_run(name: str) -> str:
    """Return `name`, or raise StoreError where it cannot be a folder's name."""
    if not RUN_NAME.fullmatch(name):
        raise StoreError(
            f"run name {name!r}: only letters, digits, '_', '-' and '.' are allowed (at most 128), a letter or digit "
            "first, and not .json last; rename it"
        )
    return name


def run_path(run: str) -> str:
    """Return the run record's path."""
    return f"{RUNS}/{checked_run(run)}.json"


def run_copy_path(run: str) -> str:
    """Return the path of the run record's copy, which stands beside the commits that were made under it."""
    return f"{COMMITS}/run={checked_run(run)}/run.json"


def plan_path(run: str) -> str:
    """Return the path of a run's plan: how its corpus is cut into shards."""
    return f"{PLAN}/run={checked_run(run)}.json"


def shard_key(lang: str, number: int) -> str:
    """Return the name of a shard that is unique in its run."""
    return f"{lang}/{number:05d}"


def shard_folder(table: str, run: str, lang: str) -> str:
    """Return the folder of a table, of commit records or of claims, for the shards of one language."""
    return f"{table}/run={checked_run(run)}/lang={checked_language(lang)}"


def commit_path(run: str, lang: str, shard: int) -> str:
    """Return the path of a shard's commit record."""
    return f"{shard_folder(COMMITS, run, lang)}/{shard:05d}.json"


def claim_path(run: str, lang: str, shard: int) -> str:
    """Return the path of the claim on a shard."""
    return f"{shard_folder(CLAIMS, run, lang)}/{shard:05d}.json"


def failed_path(run: str, lang: str, shard: int) -> str:
    """Return the path of the record of a shard's texts that were set aside."""
    return f"{shard_folder(FAILED, run, lang)}/{shard:05d}.json"


def attempts_path(run: str, lang: str, shard: int) -> str:
    """Return the path of what is known of a shard under which processes died or engines failed."""
    return f"{shard_folder(ATTEMPTS, run, lang)}/{shard:05d}.json"


def data_path(table: str, run: str, lang: str, shard: int, attempt: str = "") -> str:
    """Return a data file's path, as commit records name it.

    `attempt`, 8 lower-case hexadecimal digits, tells it from one that another attempt at the shard left under its
    plain name.
    """
    return f"{shard_folder(table, run, lang)}/{shard:05d}{attempt and '-'}{attempt}.parquet"


def compact_index_path(run: str) -> str:
    """Return the path of the index of a run's compacted roll-ups."""
    return f"{COMPACT}/run={checked_run(run)}.json"


def compact_data_path(run: str, attempt: str) -> str:
    """Return the path of compacted roll-ups, another for each `attempt`: readers may have the last one open."""
    return f"{COMPACT}/run={checked_run(run)}/{attempt}.parquet"


def is_hidden(path: str) -> bool:
    """Tell whether a file is one of those that other programs leave everywhere, such as .DS_Store and ._name."""
    return any(part.startswith(".") for part in path.split("/"))
