"""Where things are in a store, relative to it, and which names may become part of a path."""

from __future__ import annotations

import re

from moetrace.store.errors import StoreError

SHARD_TOKENS = 32768  # that make a shard, unless a run says otherwise

LANGUAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def checked_language(name: str) -> str:
    """Return `name`, or raise StoreError where it is not letters, digits, `_` and `-`."""
    if not LANGUAGE_NAME.fullmatch(name):
        raise StoreError(
            f"language code {name!r}: only letters, digits, '_' and '-' are allowed (at most 64); rename it"
        )
    return name


def checked_run(name: str) -> str:
    """Return `name`, or raise StoreError where it cannot be a folder's name."""
    if not RUN_NAME.fullmatch(name):
        raise StoreError(
            f"run name {name!r}: only letters, digits, '_', '-' and '.' are allowed (at most 128); rename it"
        )
    return name


FORMAT = "store.json"
RUNS = "runs"
COMMITS = "commits"
CLAIMS = "claims"
COMPACT = "compact"

SHARD_FILE = re.compile(r"^[a-z]+/run=([^/]+)/lang=([^/]+)/([0-9]+)(-[0-9a-f]+)?[.](parquet|json)$")


def run_path(run: str) -> str:
    """Return the run record's path."""
    return f"{RUNS}/{checked_run(run)}.json"


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


def data_path(table: str, run: str, lang: str, shard: int, attempt: str = "") -> str:
    """Return a data file's path, as commit records name it.

    `attempt`, lower-case hexadecimal, tells it from one that another attempt at the shard left under its plain name.
    """
    return f"{shard_folder(table, run, lang)}/{shard:05d}{attempt and '-'}{attempt}.parquet"


def shard_of(path: str) -> tuple[str, str, int]:
    """Return run, language and number of the shard that a file belongs to; raise StoreError where it is of none."""
    match = SHARD_FILE.search(path)
    if match is None:
        raise StoreError(f"{path}: is not a file of a shard")
    return match[1], match[2], int(match[3])


def compact_index_path(run: str) -> str:
    """Return the path of the index of a run's compacted roll-ups."""
    return f"{COMPACT}/run={checked_run(run)}.json"


def compact_data_path(run: str, attempt: str) -> str:
    """Return the path of compacted roll-ups, another for each `attempt`: readers may have the last one open."""
    return f"{COMPACT}/run={checked_run(run)}/{attempt}.parquet"
