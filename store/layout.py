"""Where things are in a store, and which names may become part of a path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from store.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

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


def format_file(root: Path) -> Path:
    """Return the file that says which format version the store has."""
    return root / "store.json"


def run_file(root: Path, run: str) -> Path:
    """Return the run record's file."""
    return root / "runs" / f"{checked_run(run)}.json"


def commit_folder(root: Path, run: str) -> Path:
    """Return the folder of a run's commit records."""
    return root / "commits" / f"run={checked_run(run)}"


def commit_file(root: Path, run: str, lang: str, shard: int) -> Path:
    """Return the commit record's file of a shard."""
    return commit_folder(root, run) / f"lang={checked_language(lang)}" / f"{shard:05d}.json"


def data_path(table: str, run: str, lang: str, shard: int) -> str:
    """Return a data file's path relative to the store, as commit records name it."""
    return f"{table}/run={checked_run(run)}/lang={checked_language(lang)}/{shard:05d}.parquet"


def staging_folder(root: Path) -> Path:
    """Return the folder under which unfinished shards are written."""
    return root / "staging"
