"""Reads a store without moetrace, as store-format.md says: python reader.py STORE prints what each language has.

`tables(store)` yields, for each committed shard, its commit record and its tables; ValueError names what is damaged.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NEWEST = 5


def checked(fine: object, path: Path, problem: str) -> None:
    if not fine:
        raise ValueError(f"{path}: {problem}")


def digest(value: Any, separators: tuple[str, str]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=separators).encode()).hexdigest()


def content(path: Path) -> bytes:
    checked(path.is_file() and not path.is_symlink(), path, "is no file")
    return path.read_bytes()


def record(path: Path, *, sealed: bool = True) -> dict[str, Any]:
    found = json.loads(content(path))
    said = found.pop("checksum", None)
    checked(said == digest(found, (",", ":")) or not (said or sealed), path, "is not as it was written")
    return found


def run_sha256(run: dict[str, Any]) -> str:
    parts = {name: run[name] for name in ("run", "model", "routing", "corpus", "settings")}
    if not run["settings"].get("skip_special"):
        parts["model"] = {name: value for name, value in run["model"].items() if name != "special_token_ids"}
    return digest(parts, (", ", ": "))


def table(store: Path, commit: dict[str, Any], file: dict[str, Any]) -> pa.Table:
    path, place = (
        store / file["path"],
        f"{file['table']}/run={commit['run']}/lang={commit['lang']}/{commit['shard']:05d}",
    )
    checked(re.fullmatch(re.escape(place) + r"(-[0-9a-f]{8})?\.parquet", file["path"]), path, "is no file of its shard")
    held = content(path)
    checked(hashlib.sha256(held).hexdigest() == file["sha256"], path, "is damaged")
    found = pq.read_table(pa.BufferReader(held))
    checked(found.num_rows == file["rows"], path, "has other rows than its commit record says")
    return found


def tables(store: Path) -> Iterator[tuple[dict[str, Any], dict[str, pa.Table]]]:
    form = record(store / "store.json", sealed=False)
    checked(
        form["format"] == "moetrace-store" and form["version"] <= NEWEST, store, "is no store of version 5 or below"
    )
    for path in sorted(store.glob("commits/run=*/lang=*/[0-9]*.json")):
        commit = record(path, sealed=form["version"] >= 4)
        place = Path(f"commits/run={commit['run']}/lang={commit['lang']}/{commit['shard']:05d}.json")
        checked(path == store / place, path, "is the record of another shard")
        run_path = store / f"runs/{commit['run']}.json"
        checked(
            run_sha256(record(run_path, sealed=form["version"] >= 4)) == commit["run_sha256"], path, "is of another run"
        )
        yield commit, {file["table"]: table(store, commit, file) for file in commit["files"]}


if __name__ == "__main__":
    for shard, found in tables(Path(sys.argv[1])):
        rows = {name: each.num_rows for name, each in found.items()}
        print(shard["run"], shard["lang"], shard["shard"], "tokens:", shard["tokens"], "rows:", rows)
