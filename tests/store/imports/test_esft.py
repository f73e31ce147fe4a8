"""Traces in the form of ESFT: every decision comes back."""

from __future__ import annotations

import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.store.format.records import RunRecord
from moetrace.store.imports import FORMATS, ImportRequest, Source
from moetrace.store.progress import Progress
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from tests.support.examples import examples
from tests.support.imported import published_decisions, stored_decisions
from tests.support.published import (
    EXPERTS,
    LAYERS,
    TOP_K,
    import_files,
    import_small,
    random_task,
    small_task,
    write_task,
)
from tests.support.records import change_record

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from moetrace.store.format.records import CommitRecord

TASKS = ("intent", "summary")


@pytest.fixture(scope="module")
def esft(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tasks, unpacked."""
    folder = tmp_path_factory.mktemp("esft")
    for task in TASKS:
        with tarfile.open(shared_data / "esft-trace" / f"{task}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def published(esft: Path) -> dict[str, pl.DataFrame]:
    """Every decision of both tasks."""
    return {task: published_decisions(esft / task, 6) for task in TASKS}


def test_every_published_decision_of_esft_comes_back(
    esft: Path, published: dict[str, pl.DataFrame], shared_data: Path, tmp_path: Path
) -> None:
    archives = [f"{task}={shared_data / 'esft-trace' / task}.tar.xz" for task in TASKS]
    result = import_files("esft", tmp_path, *archives, shard_tokens=4096, weight_precision="f32")
    assert (result.written_shards, result.skipped_shards) == (6, 0)
    for task, decisions in published.items():
        assert len(decisions) > 1_200_000
        assert stored_decisions(tmp_path, task).equals(decisions)
    assert verify(tmp_path).problems == []
    folders = [f"{task}={esft / task}" for task in TASKS]
    again = import_files("esft", tmp_path, *folders, shard_tokens=4096, weight_precision="f32")
    assert (again.written_shards, again.skipped_shards) == (0, 6)


def test_weights_are_kept_on_the_f16_grid_unless_told_otherwise(
    esft: Path, published: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    import_files("esft", tmp_path, f"intent={esft / 'intent'}")
    stored, expected = stored_decisions(tmp_path, "intent"), published["intent"]
    assert stored.drop("weight").equals(expected.drop("weight"))
    assert ((stored["weight"] - expected["weight"]).abs() <= expected["weight"] * 2.0**-11).all()
    assert not stored.equals(expected)
    db = connect(tmp_path)
    assert db.sql("select count(*), count(token_id) from tokens").fetchall() == [(8222, 0)]
    assert db.sql("select text_id from sequences order by seq limit 2").fetchall() == [("1",), ("2",)]
    assert db.sql("from pivot_similarity").fetchall() == []


@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 6), min_size=1, max_size=7),
    st.integers(1, 12),
    st.lists(st.integers(0, 60), min_size=1, max_size=3, unique=True),
)
@examples(15)
def test_any_task_comes_back_whatever_its_shards(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: list[int], shard_tokens: int, layers: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("task")
    task = write_task(folder / "task", random_task(seed, lengths, layers))
    import_small(folder / "store", f"a={task}", shard_tokens=shard_tokens, weight_precision="f32")
    assert stored_decisions(folder / "store", "a").equals(published_decisions(task, TOP_K))
    store = Store(folder / "store")
    assert store.run().moe_layers == sorted(layers)
    assert all(commit.tokens <= shard_tokens or commit.sequences == 1 for commit in store.commits)
    assert sum(commit.tokens for commit in store.commits) == store.run().corpus["tokens"]["a"] == sum(lengths)
    assert len(store.commits) == store.run().corpus["shards"]["a"]
    assert verify(folder / "store").problems == []


def test_a_last_line_needs_no_newline_and_lines_may_end_as_in_windows(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    published = published_decisions(task, TOP_K)
    first, second = (task / f"expert_weights_{layer}.txt" for layer in LAYERS)
    first.write_bytes(first.read_bytes().replace(b"\n", b"\r\n"))
    second.write_bytes(second.read_bytes().rstrip(b"\n"))
    import_small(tmp_path / "store", f"a={task}", weight_precision="f32")
    assert stored_decisions(tmp_path / "store", "a").equals(published)


def test_a_member_of_an_archive_cannot_leave_the_folder_it_is_unpacked_to(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    with tarfile.open(tmp_path / "task.tar", "w") as archive:
        for file in task.iterdir():
            archive.add(file, f"../../{file.name}")
        archive.add(small_task(tmp_path / "other") / "expert_weights_1.txt", "../escaped.txt")
    import_small(tmp_path / "store", f"a={tmp_path / 'task.tar'}", weight_precision="f32")
    assert stored_decisions(tmp_path / "store", "a").equals(published_decisions(task, TOP_K))
    assert not list(tmp_path.parent.glob("escaped.txt"))


class InterruptedAfter(Progress):
    """A person who presses Ctrl-C when some shards are in the store."""

    def __init__(self, shards: int) -> None:
        self.left = shards

    def committed(self, commit: CommitRecord) -> None:  # noqa: ARG002  the interface of a Progress
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path: Path) -> None:
    sources = [
        f"{lang}={write_task(tmp_path / lang, random_task(seed, (3, 2, 4, 1, 5)))}" for seed, lang in enumerate("ab")
    ]
    options = {"top_k": TOP_K, "experts": EXPERTS, "shard_tokens": 4}
    request = ImportRequest(tuple(Source.parse(source) for source in sources), "run", **options)
    with pytest.raises(KeyboardInterrupt):
        FORMATS["esft"](tmp_path / "stopped", request, InterruptedAfter(5))
    assert len(Store(tmp_path / "stopped").commits) == 5
    again = FORMATS["esft"](tmp_path / "stopped", request, Progress())
    assert again.skipped_shards == 5
    whole = FORMATS["esft"](tmp_path / "whole", request, Progress())
    assert again.written_shards == whole.written_shards - 5 > 0
    assert [commit.files for commit in Store(tmp_path / "stopped").commits] == [
        commit.files for commit in Store(tmp_path / "whole").commits
    ]
    assert verify(tmp_path / "stopped").problems == []


def test_an_import_goes_on_whose_record_does_not_say_that_ids_are_numbers(tmp_path: Path) -> None:
    """An older version wrote none: `corpus.parallel` is not there."""
    store, sources = tmp_path / "store", [f"{lang}={small_task(tmp_path / lang)}" for lang in "ab"]
    import_small(store, *sources, shard_tokens=3)
    assert Store(store).run().corpus["parallel"] is False
    for path in (store / "runs/run.json", store / "commits/run=run/run.json"):
        change_record(path, lambda record: record["corpus"].pop("parallel"))
    digest = RunRecord.from_json((store / "runs/run.json").read_bytes(), "", sealed=True).sha256()
    for path in store.glob("commits/run=run/lang=*/*.json"):
        change_record(path, lambda commit: commit.update(run_sha256=digest))
    (store / "commits/run=run/lang=b/00001.json").unlink()
    again = import_small(store, *sources, shard_tokens=3)
    assert (again.written_shards, again.skipped_shards, again.missing) == (1, 3, ())
    assert verify(store).problems == []
    assert Store(store).run().sha256() == digest, "the record stays as it was"
    assert connect(store).sql("select parallel from runs").fetchall() == [(False,)]


def test_memory_does_not_grow_with_the_lines(tmp_path: Path) -> None:
    peaks = []
    for name, lines in (("few", 60), ("many", 480)):
        task = write_task(tmp_path / name, random_task(3, (20,) * lines, layers=(0, 1)))
        tracemalloc.start()
        result = import_small(tmp_path / "store", f"a={task}", run=name, shard_tokens=400)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.written_shards == lines // 20
    assert peaks[1] < 1.25 * peaks[0]
