"""Compacting again reads new shards only, and makes the file that compacting everything makes, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.format.blocks import BlockChecksums
from moetrace.store.read.reader import Store
from moetrace.store.storage.local import LocalStorage
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.support.older import as_written_in
from tests.support.records import change_record
from tests.support.stores import World, make_record, make_shard, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LANGUAGES = ("eng_Latn", "deu_Latn", "swh_Latn")
SHARDS = 6


@pytest.fixture
def world() -> World:
    return make_world(seed=5, texts=12)


@pytest.fixture
def store(tmp_path: Path, world: World) -> Path:
    path = tmp_path / "store"
    for lang in LANGUAGES:
        write_shards(path, world, lang, range(2, 2 + SHARDS))
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the roll-ups of shards, by path, that were read since."""
    paths: list[str] = []
    read_range = LocalStorage.read_range

    def noted(self: LocalStorage, path: str, start: int, end: int) -> bytes:
        if path.startswith("usage/"):
            paths.append(path.removeprefix("usage/run=run/lang=").removesuffix(".parquet"))
        return read_range(self, path, start, end)

    monkeypatch.setattr(LocalStorage, "read_range", noted)
    return paths


def write_shards(path: Path, world: World, lang: str, numbers: range) -> None:
    with StoreWriter(path, world.record) as writer:
        for number in numbers:
            texts = make_world(seed=number, texts=4).texts[lang]
            writer.write(make_shard(world.record, lang, number, 100 * number, texts))


def made(store: Path, *, anew: bool = False) -> str:
    """Return the digest of the file that `compact` makes."""
    return compact(Store(store), "run", anew=anew).index.data.sha256


def test_the_first_time_every_shard_is_read_once(store: Path, read: list[str]) -> None:
    compact(Store(store), "run")
    assert sorted(read) == sorted(f"{lang}/{number:05d}" for lang in LANGUAGES for number in range(2, 2 + SHARDS))


def test_nothing_is_read_where_nothing_is_new(store: Path, read: list[str]) -> None:
    first = made(store)
    read.clear()
    assert made(store) == first
    assert read == []
    assert made(store, anew=True) == first
    assert len(read) == len(LANGUAGES) * SHARDS


def test_only_new_shards_are_read_and_the_sums_are_those_of_all(store: Path, world: World, read: list[str]) -> None:
    compact(Store(store), "run")
    for first in (20, 30):
        write_shards(store, world, "eng_Latn", range(first, first + 3))
        write_shards(store, world, "swh_Latn", range(first, first + 1))
        read.clear()
        again = made(store)
        assert sorted(read) == [
            *(f"eng_Latn/{number:05d}" for number in range(first, first + 3)),
            f"swh_Latn/{first:05d}",
        ]
        assert made(store, anew=True) == again
        assert verify(store).problems == []


def test_a_new_shard_of_a_lower_number_makes_its_language_be_read(store: Path, world: World, read: list[str]) -> None:
    compact(Store(store), "run")
    write_shards(store, world, "eng_Latn", range(1))
    read.clear()
    again = made(store)
    assert sorted(read) == [f"eng_Latn/{number:05d}" for number in (0, *range(2, 2 + SHARDS))]
    assert made(store, anew=True) == again


@pytest.mark.parametrize(
    "change",
    [
        lambda store: (store / "commits/run=run/lang=eng_Latn/00003.json").unlink(),
        lambda store: change_record(
            store / "commits/run=run/lang=eng_Latn/00003.json", lambda found: found.update(found)
        ),
    ],
)
def test_a_language_of_which_a_record_changed_is_read(
    store: Path, read: list[str], change: Callable[[Path], object]
) -> None:
    compact(Store(store), "run")
    change(store)
    left = len(list((store / "commits/run=run/lang=eng_Latn").iterdir()))
    read.clear()
    again = made(store)
    assert len(read) == left
    assert {path.partition("/")[0] for path in read} == {"eng_Latn"}
    assert made(store, anew=True) == again


def test_new_shards_of_a_new_language_are_added(tmp_path: Path, read: list[str]) -> None:
    world = make_world(seed=5, record=make_record(languages=("aaa_Latn", *LANGUAGES)), texts=12)
    write_shards(tmp_path / "other", world, "eng_Latn", range(2))
    compact(Store(tmp_path / "other"), "run")
    with StoreWriter(tmp_path / "other", world.record) as writer:
        writer.write(make_shard(world.record, "aaa_Latn", 0, 0, world.texts["aaa_Latn"]))
    read.clear()
    again = made(tmp_path / "other")
    assert read == ["aaa_Latn/00000"]
    assert made(tmp_path / "other", anew=True) == again


def test_a_damaged_file_is_made_of_all_shards_again(store: Path, read: list[str]) -> None:
    index = compact(Store(store), "run").index
    content = bytearray((store / index.data.path).read_bytes())
    content[len(content) // 2] ^= 1
    (store / index.data.path).write_bytes(content)
    read.clear()
    assert made(store) == index.data.sha256
    assert len(read) == len(LANGUAGES) * SHARDS


def test_rows_that_are_no_roll_ups_are_made_again(store: Path, read: list[str]) -> None:
    """Somebody's index whose file has right checksums, and the experts of two layers in each other's place."""
    index = compact(Store(store), "run").index
    rows = pq.read_table(store / index.data.path, partitioning=None)
    at = rows.schema.get_field_index("layer")
    turned = rows.column("layer").to_numpy()[::-1].copy()
    replace_data(store, index.data.path, rows.set_column(at, rows.schema.field("layer"), pa.array(turned)))
    read.clear()
    assert made(store) == index.data.sha256
    assert len(read) == len(LANGUAGES) * SHARDS


def test_wrong_sums_are_found_and_made_anew(store: Path) -> None:
    index = compact(Store(store), "run").index
    rows = pq.read_table(store / index.data.path, partitioning=None)
    at = rows.schema.get_field_index("count")
    more = rows.column("count").to_numpy() + 1
    replace_data(store, index.data.path, rows.set_column(at, rows.schema.field("count"), pa.array(more)))
    (problem,) = verify(store).problems
    assert "is not what its shards add up to" in problem.what
    assert problem.what.endswith("make it again with `moetrace compact --anew`")
    assert moetrace(["compact", str(store), "--anew"]) == 0
    assert verify(store).problems == []


def replace_data(store: Path, path: str, rows: pa.Table) -> None:
    """Put other rows into the compacted file, and their checksums into the index."""
    pq.write_table(rows, store / path)
    content = (store / path).read_bytes()
    blocks = BlockChecksums()
    blocks.update(content)

    def change(index: dict[str, dict[str, object]]) -> None:
        index["data"].update(bytes=len(content), crc32=blocks.hex())

    change_record(store / "compact/run=run.json", change)


def test_an_interrupted_compact_leaves_what_there_was(
    store: Path, world: World, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compact(Store(store), "run").index
    write_shards(store, world, "eng_Latn", range(20, 23))
    before = connect(store).sql("select * from usage_by_language order by all").fetchall()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compact(Store(store), "run")
    assert Store(store).indexes["run"].data == first.data
    assert connect(store).sql("select * from usage_by_language order by all").fetchall() == before
    read.clear()
    again = made(store)
    assert len(read) == 3
    assert made(store, anew=True) == again


def test_moments_of_older_shards_go_on(tmp_path: Path, world: World, read: list[str]) -> None:
    write_world(tmp_path / "store", world, texts_in_shard=2)
    older = as_written_in(4, tmp_path / "store")
    counted = compact(Store(older), "run", moments=True)
    assert counted.computed > 0
    read.clear()
    again = compact(Store(older), "run")
    assert read == []
    assert (again.computed, again.index.data.sha256) == (counted.computed, counted.index.data.sha256)
