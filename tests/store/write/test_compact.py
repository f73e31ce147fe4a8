"""Compacted roll-ups change no number, and are never trusted over the commit records."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.read.compact_index import INDEX_VERSION
from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.storage.local import LocalStorage
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.support.records import change_record
from tests.support.stores import World, make_record, make_shard, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BY_LANGUAGE = "from usage_by_language order by all"


@pytest.fixture
def world() -> World:
    return make_world(seed=5, texts=12)


@pytest.fixture
def store(tmp_path: Path, world: World) -> Path:
    write_world(tmp_path / "store", world, texts_in_shard=2)
    return tmp_path / "store"


def by_language(store: Path) -> list[tuple[object, ...]]:
    """Return the roll-ups; sums of another order may differ in their last bits."""
    return [
        tuple(round(value, 9) if isinstance(value, float) else value for value in row)
        for row in connect(store).sql(BY_LANGUAGE).fetchall()
    ]


def test_compacted_rollups_say_the_same(store: Path) -> None:
    before = by_language(store)
    index = compact(Store(store), "run").index
    assert len(index.entries) == len(Store(store).commits)
    compacted, rest = Store(store).rollups()
    assert [(found.run, sorted(found.languages)) for found in compacted] == [
        ("run", ["deu_Latn", "eng_Latn", "swh_Latn"])
    ]
    assert rest == []
    assert by_language(store) == before
    assert verify(store).problems == []
    assert verify(store).orphans == []


def test_rollups_without_sql_are_those_of_sql(store: Path, world: World) -> None:
    def both() -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        columns = ("lang", "layer", "expert", "count", "weight_sum", "probability_sum", "count_squared_sum")
        rows = zip(*(Store(store).rollup_table().column(name).to_pylist() for name in columns), strict=True)
        query = f"select {', '.join(columns)} from usage_by_language order by all"
        return tuple(
            [tuple(round(value, 9) if isinstance(value, float) else value for value in row) for row in found]
            for found in (rows, connect(store).sql(query).fetchall())
        )

    mine, sql = both()
    assert mine == sql
    compact(Store(store), "run")
    assert both() == (sql, sql)
    texts = make_world(seed=6, texts=2).texts["eng_Latn"]
    StoreWriter(store, world.record).write(make_shard(world.record, "eng_Latn", 50, 500, texts))
    mine, sql = both()
    assert mine == sql


def test_shards_that_come_later_are_added(store: Path, world: World) -> None:
    compact(Store(store), "run")
    texts = make_world(seed=6, texts=2).texts["eng_Latn"]
    StoreWriter(store, world.record).write(make_shard(world.record, "eng_Latn", 50, 500, texts))
    after = by_language(store)
    assert [file.shard for file in Store(store).rollups()[1]] == [50]
    (store / "compact" / "run=run.json").unlink()
    assert after == by_language(store)


def test_a_shard_that_was_taken_out_makes_its_language_be_read_anew(store: Path) -> None:
    compact(Store(store), "run")
    (store / "commits/run=run/lang=eng_Latn/00001.json").unlink()
    assert sorted(Store(store).rollups()[0][0].languages) == ["deu_Latn", "swh_Latn"]
    after = by_language(store)
    (store / "compact" / "run=run.json").unlink()
    assert after == by_language(store)


def test_a_shard_that_was_done_again_is_read_anew(store: Path, world: World) -> None:
    compact(Store(store), "run")
    path = store / "commits/run=run/lang=eng_Latn/00001.json"
    path.unlink()
    texts = make_world(seed=6, texts=2).texts["eng_Latn"]
    commit = StoreWriter(store, world.record).write(make_shard(world.record, "eng_Latn", 1, 2, texts))
    assert commit in Store(store).commits
    after = by_language(store)
    (store / "compact" / "run=run.json").unlink()
    assert after == by_language(store)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(path.read_text().replace(f'"version": {INDEX_VERSION}', '"version": 99', 1)),
        lambda path: path.write_text(path.read_text().replace('"tokens": ', '"tokens": 1', 1)),
        lambda path: path.unlink(),
    ],
)
def test_an_index_that_cannot_be_used_is_not(store: Path, damage: Callable[[Path], object]) -> None:
    before = by_language(store)
    compact(Store(store), "run")
    damage(store / "compact" / "run=run.json")
    assert Store(store).rollups()[0] == []
    assert by_language(store) == before


def test_an_index_of_an_older_version_costs_time_and_is_no_problem(store: Path) -> None:
    before = by_language(store)
    compact(Store(store), "run")
    change_record(store / "compact" / "run=run.json", lambda index: index.update(version=INDEX_VERSION - 1))
    assert Store(store).rollups()[0] == []
    assert by_language(store) == before
    verdict = verify(store)
    assert verdict.problems == []
    assert verdict.notes == ["compact/run=run.json: is of an older format, not used; `moetrace compact` makes it again"]
    compact(Store(store), "run")
    assert verify(store).notes == []


def test_damaged_rollups_are_named_and_never_read(store: Path) -> None:
    index = compact(Store(store), "run").index
    path = store / index.data.path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match="damaged near byte 0"):
        connect(store)
    (problem,) = verify(store).problems
    assert problem.path == index.data.path
    assert problem.what.endswith("make it again with `moetrace compact`")
    assert moetrace(["compact", str(store)]) == 0
    assert verify(store).problems == []


def test_compacting_again_leaves_one_file(store: Path, world: World) -> None:
    compact(Store(store), "run")
    StoreWriter(store, world.record).write(
        make_shard(world.record, "eng_Latn", 50, 500, make_world(seed=6, texts=2).texts["eng_Latn"])
    )
    reader = Store(store)
    before = reader.rollups()[0][0].path
    index = compact(Store(store), "run").index
    assert compacted(store) == {before, index.data.path}
    assert reader.rollup_table().num_rows > 0  # who has read the index before still finds what it names
    for path in compacted(store):
        os.utime(store / path, (0, 0))
    index = compact(Store(store), "run").index
    assert compacted(store) == {index.data.path}


def test_two_at_once_leave_an_index_whose_file_is_there(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins when the first has published its file, and ends before it has written its index."""
    replace = LocalStorage.replace
    second = []

    def overtaken(self: LocalStorage, path: str, content: bytes) -> None:
        if not second:
            second.append(None)
            second.append(compact(Store(store), "run"))
        replace(self, path, content)

    monkeypatch.setattr(LocalStorage, "replace", overtaken)
    first = compact(Store(store), "run")
    assert compacted(store) == {first.index.data.path, second[1].index.data.path}
    assert verify(store).problems == []
    assert len(Store(store).rollups()[0]) == 1
    connect(store)


def compacted(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.glob("compact/run=run/*")}


def test_runs_of_counts_alone_keep_their_nulls(tmp_path: Path) -> None:
    record = make_record(tables=("usage",))
    for shard in range(3):
        counts = Counts("eng_Latn", shard, 100, 0, pl.Series([25] * 24).to_numpy().reshape(3, 8))
        StoreWriter(tmp_path, record).write_counts(counts)
    before = by_language(tmp_path)
    compact(Store(tmp_path), "run")
    assert by_language(tmp_path) == before
    assert connect(tmp_path).sql("select sum(count), count(weight_sum) from usage_by_language").fetchall() == [
        (1800, 0)
    ]


def test_a_language_lacks_what_one_of_its_shards_lacks(tmp_path: Path) -> None:
    record = make_record(tables=("usage",))
    count, weights = np.full((3, 8), 25), np.full((3, 8), 2.5)
    with StoreWriter(tmp_path, record) as writer:
        for lang, known in (("eng_Latn", (weights, None, weights)), ("swh_Latn", (weights, weights))):
            for shard, sums in enumerate(known):
                writer.write_counts(Counts(lang, shard, 100, 0, count, sums))
    for _ in range(2):
        db = connect(tmp_path)
        found = db.sql(
            "select lang, sum(count), sum(weight_sum) from usage_by_language group by 1 order by 1"
        ).fetchall()
        assert found == [("eng_Latn", 1800, None), ("swh_Latn", 1200, 120.0)]
        table = pl.from_arrow(Store(tmp_path).rollup_table())
        assert table.filter(pl.col("weight_sum").is_null())["lang"].unique().to_list() == ["eng_Latn"]
        compact(Store(tmp_path), "run")
    StoreWriter(tmp_path, record).write_counts(Counts("swh_Latn", 2, 100, 0, count, None))
    assert Store(tmp_path).rollup_table().column("weight_sum").null_count == 48
    assert connect(tmp_path).sql("select count(weight_sum) from usage_by_language").fetchall() == [(0,)]


def test_the_command_compacts_every_run_or_one(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(store, make_world(seed=9, record=make_record(run="other"), texts=2))
    assert moetrace(["compact", str(store), "--run", "other"]) == 0
    assert capsys.readouterr().out.startswith("other: 3 shards, ")
    assert moetrace(["compact", str(store)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["other", "run"]
    assert moetrace(["sql", str(store), "select sum(count) as n from files.rollups", "--format", "csv"]) == 0
    assert capsys.readouterr().out.split()[0] == "n"
    assert moetrace(["compact", str(store), "--run", "nothing"]) == 1
    assert "has no run 'nothing'" in capsys.readouterr().err
    assert moetrace(["compact", str(tmp_path / "nowhere")]) == 1
