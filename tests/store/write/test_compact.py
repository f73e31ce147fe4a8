"""Compacted roll-ups change no number, and are never trusted over the commit records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
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
    index = compact(Store(store), "run")
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
        columns = ("lang", "layer", "expert", "count", "weight_sum", "sequence_share_sum", "probability_sum")
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
        lambda path: path.write_text(path.read_text().replace('"version": 2', '"version": 99', 1)),
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


def test_damaged_rollups_are_named_and_never_read(store: Path) -> None:
    index = compact(Store(store), "run")
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
    index = compact(Store(store), "run")
    assert [str(path.relative_to(store)) for path in store.glob("compact/run=run/*")] == [index.data.path]


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
