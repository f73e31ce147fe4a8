"""A run of many shards is compacted when its last one is there, once, and without ever failing the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.local import LocalStorage
from moetrace.store.storage.open import open_storage
from moetrace.store.write import compact_finished as module
from moetrace.store.write.compact_finished import compact_finished
from moetrace.store.write.writer import StoreWriter
from tests.support.stores import make_record

if TYPE_CHECKING:
    from pathlib import Path

PLANNED = {"deu_Latn": 2, "eng_Latn": 3}
COUNT = np.full((3, 8), 25)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store that lacks the last shard of what was planned; four shards are many."""
    monkeypatch.setattr(module, "WORTH", 4)
    write(tmp_path / "store", [("deu_Latn", 0), ("deu_Latn", 1), ("eng_Latn", 0), ("eng_Latn", 1)])
    return tmp_path / "store"


def write(store: Path, shards: list[tuple[str, int]]) -> None:
    record = make_record(languages=tuple(PLANNED), tables=("usage",))
    record.corpus["shards"] = PLANNED
    with StoreWriter(store, record) as writer:
        for lang, number in shards:
            writer.write_counts(Counts(lang, number, 100, 1, COUNT, COUNT / 3))


def index_of(store: Path) -> Path:
    return store / "compact/run=run.json"


def test_a_run_that_lacks_a_shard_is_left_as_it_is(store: Path) -> None:
    assert compact_finished(open_storage(store), "run") == ""
    assert not index_of(store).exists()


def test_a_whole_run_is_compacted(store: Path) -> None:
    write(store, [("eng_Latn", 2)])
    before = Store(store).rollup_table()
    assert compact_finished(open_storage(store), "run") == ""
    assert Store(store).rollups()[1] == []
    assert Store(store).rollup_table().equals(before)
    assert list((store / "claims").rglob("*.json")) == []


def test_a_run_of_few_shards_is_left_as_it_is(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 6)
    write(store, [("eng_Latn", 2)])
    assert compact_finished(open_storage(store), "run") == ""
    assert not index_of(store).exists()


def test_the_second_process_finds_it_done(store: Path) -> None:
    write(store, [("eng_Latn", 2)])
    compact_finished(open_storage(store), "run")
    first = index_of(store).stat().st_mtime_ns, index_of(store).read_bytes()
    assert compact_finished(open_storage(store), "run") == ""
    assert (index_of(store).stat().st_mtime_ns, index_of(store).read_bytes()) == first


def test_another_process_that_is_at_it_is_left_alone(store: Path) -> None:
    write(store, [("eng_Latn", 2)])
    with Claims(open_storage(store), "run", Store(store).run().sha256()) as other:
        assert other.take("deu_Latn", 0)
        assert compact_finished(open_storage(store), "run") == ""
        assert not index_of(store).exists()
    assert compact_finished(open_storage(store), "run") == ""
    assert index_of(store).exists()


def test_what_goes_wrong_is_one_line(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, [("eng_Latn", 2)])
    path = store / "usage/run=run/lang=eng_Latn/00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    said = compact_finished(open_storage(store), "run")
    assert said.startswith("the roll-ups of run 'run' were not compacted (")
    assert "eng_Latn/00001.parquet: damaged near byte 0" in said
    assert "\n" not in said
    path.write_bytes(content)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalStorage, "replace", full)
    assert "No space left on device" in compact_finished(open_storage(store), "run")
    assert Store(store).rollups()[0] == []


def test_a_store_without_the_run_has_nothing_to_compact(tmp_path: Path) -> None:
    assert compact_finished(open_storage(tmp_path / "nowhere"), "run") == ""
