"""The database file that any client of DuckDB opens."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import duckdb
import pytest

from moetrace.analytics.database import file
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.analytics.database.file import write_database
from moetrace.cli.main import run as moetrace
from moetrace.store.errors import StoreError
from moetrace.store.output import OutputError
from moetrace.store.read.reader import Store
from moetrace.store.write.compact import compact
from tests.support.stores import make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_world(tmp_path / "it's a store", make_world(1))
    return tmp_path / "it's a store"


def rounded(rows: list[tuple[object, ...]]) -> list[tuple[str, ...]]:
    """Return rows in one order; sums of another order may differ in their last bits."""
    return sorted(tuple(f"{value:.9f}" if isinstance(value, float) else str(value) for value in row) for row in rows)


@pytest.mark.parametrize("compacted", [False, True])
def test_another_process_sees_every_view_and_macro(store: Path, tmp_path: Path, *, compacted: bool) -> None:
    if compacted:
        compact(Store(store), "run")
    path = write_database(store, tmp_path / "out.duckdb")
    ours, theirs = connect(store), duckdb.connect(path, read_only=True)
    for name in views():
        found, expected = (db.sql(f"from {name}").fetchall() for db in (theirs, ours))
        assert rounded(found) == rounded(expected)
    theirs.close()
    query = "select count(*) from jaccard(n := 1)"
    script = f"import duckdb; print(duckdb.connect({str(path)!r}).sql({query!r}).fetchall())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=os.sep)
    assert done.stdout.strip() == str(ours.sql(query).fetchall())
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_store_of_counts_alone_has_empty_tables(tmp_path: Path) -> None:
    import numpy as np

    record = make_record(languages=["a", "b"], tables=("usage",))
    write_counts(tmp_path / "store", record, {lang: np.full((3, 8), 25) for lang in ("a", "b")}, {"a": 100, "b": 100})
    path = write_database(tmp_path / "store", tmp_path / "out.duckdb")
    db = duckdb.connect(path, read_only=True)
    assert db.sql("select count(*) from routes").fetchall() == [(0,)]
    assert db.sql("select avg(jaccard) from jaccard").fetchall() == [(1.0,)]


def test_the_command_says_what_it_wrote_and_writes_over_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.duckdb"
    assert moetrace(["sql", str(store), "--database", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    before = path.read_bytes()
    assert moetrace(["sql", str(store), "--database", str(path)]) == 1
    assert "exists already; remove it, or choose another name" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert moetrace(["sql", str(store), "select 1", "--database", str(path)]) == 2
    with pytest.raises(OutputError, match=r"out.duckdb: cannot be written \(no such folder\)"):
        write_database(store, tmp_path / "nowhere" / "out.duckdb")


def test_a_damaged_store_leaves_no_database(store: Path, tmp_path: Path) -> None:
    for path in store.glob("usage/*/*/*.parquet"):
        path.write_bytes(b"")
    with pytest.raises(StoreError, match="is cut off"):
        write_database(store, tmp_path / "out.duckdb")
    assert [entry.name for entry in tmp_path.iterdir()] == ["it's a store"]


@pytest.mark.parametrize("name", ["a*", "what?", "[ab]"])
def test_a_path_that_duckdb_takes_for_a_pattern_is_refused(name: str, tmp_path: Path) -> None:
    """Another store, which the pattern would find as well, must never be read for this one."""
    for folder, seed in ((name, 1), ("ab", 2)):
        write_world(tmp_path / folder, make_world(seed))
    with pytest.raises(StoreError, match="in its path, which DuckDB takes for a pattern; move the store"):
        write_database(tmp_path / name, tmp_path / "out.duckdb")
    assert not (tmp_path / "out.duckdb").exists()
    assert connect(tmp_path / name).sql("select count(*) from routes").fetchall() != [(0,)]


@pytest.mark.parametrize(
    "name", ["it's", 'a "b"', "a;b -- c", "a$1{}%\\'; drop schema files cascade; --", "\N{SNOWMAN}"]
)
def test_any_other_path_is_one_value_in_the_file(name: str, tmp_path: Path) -> None:
    write_world(tmp_path / name, make_world(1))
    path = write_database(tmp_path / name, tmp_path / "out.duckdb")
    found = duckdb.connect(path, read_only=True)
    ours = connect(tmp_path / name)
    for query in ("from routes order by all", "from usage order by all", "from sequences order by all"):
        assert found.sql(query).fetchall() == ours.sql(query).fetchall() != []


def test_the_file_is_made_by_locked_databases(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []

    def watched(made: Callable[..., None]) -> Callable[..., None]:
        def make(connection: duckdb.DuckDBPyConnection, *args: object, **options: object) -> None:
            names = "'enable_external_access', 'lock_configuration'"
            query = f"select value from duckdb_settings() where name in ({names}) order by name"
            states.append([value for (value,) in connection.execute(query).fetchall()])
            made(connection, *args, **options)

        return make

    for name in ("create_views", "create_files_view"):
        monkeypatch.setattr(file, name, watched(getattr(file, name)))
    write_database(store, tmp_path / "out.duckdb")
    assert states == [["false", "true"]] * 6
