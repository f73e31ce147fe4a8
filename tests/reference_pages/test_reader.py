"""docs/reference/reader.py, written after the page on the format, reads and refuses what moetrace does."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from moetrace.store.format.schema import ADDED_COLUMNS, TABLE_NAMES
from moetrace.store.format.sealed import sealed_text
from moetrace.store.read.reader import Store
from tests.reference_pages.pages import FOLDER
from tests.support.paths import ROOT
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

READER = FOLDER / "reader.py"
OLDER = ROOT / "tests" / "fixtures" / "written_before" / "store"  # of format version 3


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reader", READER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two runs, one of them of 300 experts; several shards a language."""
    write_world(tmp_path / "store", make_world(1))
    write_world(tmp_path / "store", make_world(2, make_record("wide", num_experts=300)))
    return tmp_path / "store"


def all_tables(found: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table by run, language and shard, in any order of the shards."""
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLE_NAMES}
    for commit, tables in found:
        key = (commit["run"], commit["lang"], commit["shard"])
        for name, table in tables.items():
            rows[name] += [(*key, *row.values()) for row in table.to_pylist()]
    return {name: sorted(found, key=repr) for name, found in rows.items()}


def tables_of_moetrace(place: Path) -> dict[str, list[tuple[Any, ...]]]:
    opened = Store(place)
    return {
        name: sorted(
            (tuple(row.values()) for run in opened.runs for row in opened.dataset(name, run).to_table().to_pylist()),
            key=repr,
        )
        for name in TABLE_NAMES
    }


def test_it_reads_the_same_rows_as_moetrace(store: Path, reader: ModuleType) -> None:
    found = all_tables(reader.tables(store))
    assert all(found.values())
    assert found == tables_of_moetrace(store)


def test_the_counts_of_routes_are_those_of_usage(store: Path, reader: ModuleType) -> None:
    """What the page says of roll-ups, of the reader's tables alone."""
    for commit, tables in reader.tables(store):
        k = reader.record(store / f"runs/{commit['run']}.json")["model"]["top_k"]
        counted = tables["routes"].group_by(["layer", "expert"]).aggregate([("weight", "count"), ("weight", "sum")])
        said = tables["usage"].filter(pa.compute.greater(tables["usage"]["count"], 0)).sort_by("layer")
        routes = {(row["layer"], row["expert"]): row["weight_count"] for row in counted.to_pylist()}
        assert routes == {(row["layer"], row["expert"]): row["count"] for row in said.to_pylist()}
        layers = tables["usage"].group_by("layer").aggregate([("count", "sum")])
        assert set(layers["count_sum"].to_pylist()) == {commit["tokens"] * k}


def test_it_runs_as_a_program_where_moetrace_is_not(store: Path) -> None:
    without = f"import runpy, sys; sys.modules['moetrace'] = None; runpy.run_path({str(READER)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", without, store], check=True, capture_output=True, text=True)
    commits = Store(store).commits
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        [commit.run, commit.lang, str(commit.shard)] for commit in commits
    ]


def test_it_reads_a_store_of_an_older_version(reader: ModuleType) -> None:
    found, expected = all_tables(reader.tables(OLDER)), tables_of_moetrace(OLDER)
    lacking = len(ADDED_COLUMNS[5]["usage"])
    assert all(row[-lacking:] == (None,) * lacking for row in expected["usage"])
    assert found == expected | {"usage": [row[:-lacking] for row in expected["usage"]]}


def test_what_no_commit_record_names_is_not_seen(store: Path, reader: ModuleType) -> None:
    before = all_tables(reader.tables(store))
    commit = next(path for path in sorted(store.glob("commits/run=run/lang=*/*.json")) if path.stem.isdigit())
    lang = commit.parent.name
    commit.unlink()
    routes = store / "routes/run=run" / lang
    shutil.copy(next(routes.glob("*.parquet")), routes / "00000-0123abcd.parquet")
    after = all_tables(reader.tables(store))
    assert after == tables_of_moetrace(store)
    assert len(after["routes"]) < len(before["routes"])


def first(store: Path, pattern: str) -> Path:
    return min(store.glob(pattern))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_a_flipped_bit_of_a_data_file_is_refused(table: str, store: Path, reader: ModuleType) -> None:
    path = first(store, f"{table}/run=run/*/*.parquet")
    flip(path)
    with pytest.raises(ValueError, match=path.name):
        list(reader.tables(store))


@pytest.mark.parametrize(
    ("pattern", "old", "new"),
    [
        ("commits/run=run/lang=*/*.json", '"tokens": ', '"tokens": 1'),
        ("runs/run.json", '"top_k": 2', '"top_k": 1'),
        ("store.json", '"version": 5', '"version": 4'),
    ],
)
def test_a_record_that_was_changed_is_refused(
    pattern: str, old: str, new: str, store: Path, reader: ModuleType
) -> None:
    path = first(store, pattern)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=path.name):
        list(reader.tables(store))


def resealed(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.pop("checksum")
    path.write_text(sealed_text({**content, **changes}))


def test_a_commit_of_another_place_run_or_path_is_refused(store: Path, reader: ModuleType) -> None:
    path = first(store, "commits/run=run/lang=*/*.json")
    whole = path.read_text()
    files = json.loads(whole)["files"]
    for changes in (
        {"shard": 7},
        {"run_sha256": "0" * 64},
        {"files": [{**files[0], "path": "../outside.parquet"}]},
        {"files": [{**files[0], "path": files[1]["path"]}]},
        {"files": [{**files[0], "rows": files[0]["rows"] + 1}]},
    ):
        resealed(path, **changes)
        with pytest.raises(ValueError, match=r"json|parquet"):
            list(reader.tables(store))
    path.write_text(whole)
    list(reader.tables(store))


def test_a_link_and_a_newer_version_are_refused(store: Path, reader: ModuleType, tmp_path: Path) -> None:
    path = first(store, "usage/run=run/*/*.parquet")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is no file"):
        list(reader.tables(store))
    (store / "store.json").write_text(sealed_text({"format": "moetrace-store", "version": 6}, indent=None))
    with pytest.raises(ValueError, match="version 5 or below"):
        list(reader.tables(store))
