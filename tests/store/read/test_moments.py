"""Second moments over texts: what `compact --moments` computes for older shards is what new shards have."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.errors import StoreError
from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.upgrade import upgrade
from moetrace.store.verify.verify import verify
from moetrace.store.write import compact as compact_module
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.support.older import as_written_in, rewrite_table
from tests.support.paths import ROOT
from tests.support.stored import stored_world
from tests.support.stores import World, make_record, make_shard, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

Rows = dict[tuple[str, int, int], tuple[float | None, float | None]]
HINT = "have no second moments over texts; "


def moments(store: Path) -> Rows:
    """Return both columns by language, layer and expert; SQL and the table that needs none say the same."""
    names = ("lang", "layer", "expert", "count_squared_sum", "count_decisions_sum")
    by_sql = connect(store).sql(f"select {', '.join(names)} from usage_by_language").fetchall()
    found = {row[:3]: row[3:] for row in by_sql}
    table = Store(store).rollup_table()
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    assert {row[:3]: row[3:] for row in rows} == found
    return found


def counted(world: World) -> Rows:
    """Return the same of a world's texts, one by one."""
    record, found = world.record, {}
    for lang, texts in world.texts.items():
        for at, layer in enumerate(record.moe_layers):
            counts = np.array([np.bincount(t.experts[:, at].ravel(), minlength=record.num_experts) for t in texts])
            decisions = counts.sum(axis=1, keepdims=True)
            sums = zip((counts**2).sum(axis=0).tolist(), (counts * decisions).sum(axis=0).tolist(), strict=True)
            found |= {(lang, layer, expert): both for expert, both in enumerate(sums)}
    return found


@pytest.fixture
def world() -> World:
    return make_world(seed=5, texts=12)


@pytest.fixture
def older(tmp_path: Path, world: World) -> Path:
    """Three shards and more a language, as format 4 had them."""
    write_world(tmp_path / "store", world, texts_in_shard=3)
    return as_written_in(4, tmp_path / "store")


def later_shard(world: World) -> tuple[str, World]:
    """Return two more texts of English, and the world with them."""
    texts = make_world(seed=6, texts=2).texts["eng_Latn"]
    return "eng_Latn", World(world.record, {**world.texts, "eng_Latn": [*world.texts["eng_Latn"], *texts]})


def write_later(store: Path, world: World) -> World:
    lang, whole = later_shard(world)
    new = whole.texts[lang][len(world.texts[lang]) :]
    StoreWriter(store, world.record).write(make_shard(world.record, lang, 50, 500, new))
    return whole


def test_new_shards_have_them(tmp_path: Path, world: World) -> None:
    write_world(tmp_path, world, texts_in_shard=3)
    assert moments(tmp_path) == counted(world)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_older_shards_get_them_from_routes(
    tmp_path: Path, world: World, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    write_world(store, world, texts_in_shard=3)
    shards = len(Store(store).commits)
    as_written_in(version, store)
    assert set(moments(store).values()) == {(None, None)}
    assert moetrace(["compact", str(store)]) == 0
    said = capsys.readouterr()
    assert "second moments" not in said.out
    assert (
        said.err
        == f"run: {shards} shards of 3 languages {HINT}`moetrace compact --moments` computes them from routes\n"
    )
    assert set(moments(store).values()) == {(None, None)}
    assert moetrace(["compact", str(store), "--moments"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith(f", second moments of {shards} from routes\n")
    assert said.err == ""
    assert moments(store) == counted(world)
    assert verify(store).problems == []


def test_the_store_of_an_older_moetrace_gets_them(tmp_path: Path) -> None:
    store = shutil.copytree(ROOT / "tests/fixtures/written_before/store", tmp_path / "store")
    assert moetrace(["compact", str(store), "--moments"]) == 0
    assert moments(store) == counted(stored_world(Store(store), "demo"))


def test_what_was_computed_stays_and_is_not_computed_twice(
    older: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = len(Store(older).commits)
    compact(Store(older), "run", moments=True)
    with monkeypatch.context() as patched:
        patched.setattr(compact_module, "shard_moments", None)
        for arguments in ([], ["--moments"], []):
            assert moetrace(["compact", str(older), *arguments]) == 0
            assert f"second moments of {shards} from routes" in capsys.readouterr().out
            assert moments(older) == counted(world)
    assert upgrade(older) == 4
    assert Store(older).rollups()[1] == [], "an upgrade leaves in use what is compacted"
    whole = write_later(older, world)
    assert moments(older) == counted(whole), "what is compacted and the new shard add up"
    assert moetrace(["compact", str(older)]) == 0
    assert moments(older) == counted(whole)
    assert Store(older).rollups()[1] == []
    assert verify(older).problems == []


@pytest.mark.parametrize("version", [1, 3])
def test_upgraded_and_copied_stores_have_them_still(
    tmp_path: Path, world: World, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_world(tmp_path / "store", world, texts_in_shard=3)
    compact(Store(as_written_in(version, tmp_path / "store")), "run", moments=True)
    monkeypatch.setattr(compact_module, "shard_moments", None)
    assert upgrade(tmp_path / "store") == version
    assert moments(tmp_path / "store") == counted(world)
    assert verify(tmp_path / "store").problems == verify(tmp_path / "store").notes == []
    copied = shutil.copytree(tmp_path / "store", tmp_path / "copied", copy_function=shutil.copy)
    assert set(moments(copied).values()) == {(None, None)}, "commit records have other times"
    assert moetrace(["compact", str(copied)]) == 0
    assert moments(copied) == counted(world)


def test_shards_that_come_later_without_them_are_counted_alone(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when a moetrace of that time goes on with a run."""
    store, full = tmp_path / "store", tmp_path / "full"
    write_world(full, world, texts_in_shard=3)
    whole = write_later(full, world)
    as_written_in(4, full)
    shutil.copytree(full, store)
    late = store / "commits/run=run/lang=eng_Latn/00050.json"
    late.unlink()
    compact(Store(store), "run", moments=True)
    shutil.copy2(full / late.relative_to(store), late)
    assert {row for (lang, *_), row in moments(store).items() if lang == "eng_Latn"} == {(None, None)}
    assert moetrace(["compact", str(store)]) == 0
    assert "shards of 1 languages" in capsys.readouterr().err
    assert {row for (lang, *_), row in moments(store).items() if lang == "eng_Latn"} == {(None, None)}
    assert {key: row for key, row in moments(store).items() if key[0] != "eng_Latn"} == {
        key: row for key, row in counted(whole).items() if key[0] != "eng_Latn"
    }
    computed, shard_moments = [], compact_module.shard_moments
    monkeypatch.setattr(
        compact_module, "shard_moments", lambda *given: computed.append(given[-1].key) or shard_moments(*given)
    )
    compact(Store(store), "run", moments=True)
    assert {key.split("/")[0] for key in computed} == {"eng_Latn"}
    assert moments(store) == counted(whole)


def test_a_shard_that_was_done_again_is_counted_again(older: Path, world: World) -> None:
    compact(Store(older), "run", moments=True)
    upgrade(older)
    (older / "commits/run=run/lang=eng_Latn/00000.json").unlink()
    new = make_world(seed=6, texts=2).texts["eng_Latn"]
    StoreWriter(older, world.record).write(make_shard(world.record, "eng_Latn", 0, 0, new))
    after = World(world.record, {**world.texts, "eng_Latn": [*new, *world.texts["eng_Latn"][3:]]})
    assert moments(older)["eng_Latn", 1, 0] == (None, None)
    compact(Store(older), "run", moments=True)
    assert moments(older) == counted(after)
    assert verify(older).problems == []


def test_shards_without_routes_stay_without_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_world(seed=5, record=make_record(tables=("sequences", "usage")))
    shards = len(write_world(tmp_path, world).commits)
    as_written_in(4, tmp_path)
    compact(Store(tmp_path), "run")
    assert moetrace(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "", "there is nothing to be done"
    assert moetrace(["compact", str(tmp_path), "--moments"]) == 0
    said = capsys.readouterr()
    assert said.err == (
        f"run: {shards} shards of 3 languages {HINT}there are no routes, tokens and sequences to compute them from\n"
    )
    assert "second moments" not in said.out
    assert set(moments(tmp_path).values()) == {(None, None)}
    assert verify(tmp_path).problems == []


def test_counts_alone_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record(tables=("usage",))
    with StoreWriter(tmp_path, record) as writer:
        writer.write_counts(Counts("eng_Latn", 0, 100, 0, np.full((3, 8), 25)))
    assert moetrace(["compact", str(tmp_path), "--moments"]) == 0
    assert "run: 1 shards of 1 languages have no second moments" in capsys.readouterr().err
    assert set(moments(tmp_path).values()) == {(None, None)}


def rolled(name: str) -> Callable[[pa.Table], pa.Table]:
    """Return the change that gives every row the value of the row before."""

    def change(rows: pa.Table) -> pa.Table:
        frame = pl.from_arrow(rows)
        return frame.with_columns(pl.Series(name, np.roll(frame[name].to_numpy(), 1))).to_arrow().cast(rows.schema)

    return change


def constant(name: str, value: int) -> Callable[[pa.Table], pa.Table]:
    """Return the change that gives every row the same value."""
    return lambda rows: pl.from_arrow(rows).with_columns(pl.lit(value).alias(name)).to_arrow().cast(rows.schema)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("routes", rolled("token"), r"routes/.*: row group 0 is not layer 1 as written"),
        ("routes", rolled("layer"), r"routes/.*: row group 0 is not layer 1 as written"),
        ("tokens", constant("seq", 0), r"tokens/.*: has other tokens than its texts"),
        ("tokens", constant("seq", 2**31 - 1), r"tokens/.*: has other tokens than its texts"),
        ("sequences", lambda rows: rows.drop_columns(["tokens"]), r"cannot be counted"),
        ("usage", rolled("count"), r"routes/.*: its decisions are not what the roll-up counts"),
    ],
)
def test_shards_that_contradict_themselves_are_named(
    older: Path, table: str, change: Callable[[pa.Table], pa.Table], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_table(older, older / "commits/run=run/lang=deu_Latn/00000.json", table, change)
    with pytest.raises(StoreError, match=message):
        compact(Store(older), "run", moments=True)
    assert moetrace(["compact", str(older), "--moments"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_byte_is_never_counted(older: Path) -> None:
    path = next(older.glob("routes/run=run/lang=eng_Latn/00000.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged near byte 0"):
        compact(Store(older), "run", moments=True)


def test_verify_counts_them_again(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard_moments = compact_module.shard_moments
    with monkeypatch.context() as patched:
        patched.setattr(
            compact_module,
            "shard_moments",
            lambda *given: {name: values + 1 for name, values in shard_moments(*given).items()},
        )
        index = compact(Store(older), "run", moments=True).index
    (problem,) = verify(older).problems
    assert problem.path == index.data.path
    assert "is not what its shards add up to" in problem.what
    assert verify(older, quick=True).problems == []
