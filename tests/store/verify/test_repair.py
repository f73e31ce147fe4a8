"""A repair moves and never deletes: no good shard is lost, and what goes on ends as if nothing had been."""

from __future__ import annotations

import errno
import json
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.read.reader import Store
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.local import LocalStorage
from moetrace.store.verify.repair import carry_out
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from tests.support.answers import QUERIES, answers
from tests.support.records import change_record, read_record, write_record
from tests.support.stores import data_file, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMIT = "commits/run=run/lang=deu_Latn/00000.json"


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def traced_again(store: Path) -> None:
    write_world(store, make_world(seed=3, texts=8), texts_in_shard=4)


def require_equal(store: Path, good: Path) -> None:
    verdict = verify(store)
    assert (verdict.problems, verdict.repairs, verdict.orphans) == ([], [], [])
    for query in QUERIES.values():
        assert answers(store, query) == answers(good, query)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_bad_shards_move_to_quarantine_and_the_next_trace_does_them_again(store: Path, good: Path) -> None:
    data_file(store, "routes").write_bytes(b"rubbish")
    (store / "commits/run=run/lang=eng_Latn/00000.json").write_text("{")
    before = files(store)
    verdict = verify(store, repair=True)
    assert len(verdict.done) == 2
    after = files(store)
    moved = {
        path.removeprefix(f"{verdict.quarantine}/"): content
        for path, content in after.items()
        if path.startswith(verdict.quarantine)
    }
    reasons = json.loads(moved.pop("reasons.json"))["moved"]
    assert moved.keys() == reasons.keys()
    assert {path.split("/")[2] for path in moved} == {"lang=deu_Latn", "lang=eng_Latn"}
    assert len(moved) == 12  # two commit records, five tables each
    assert "rubbish" not in reasons
    assert "has 7 bytes" in reasons[COMMIT]
    kept = {path: content for path, content in after.items() if not path.startswith("quarantine/")}
    assert {**kept, **moved} == before  # every byte is somewhere
    traced_again(store)
    require_equal(store, good)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_text("{}"),
        lambda path: path.write_text(""),
        lambda path: path.unlink(),
        lambda path: change_record(path, lambda record: record["model"].update(top_k=5)),
        lambda path: change_record(path, lambda record: record["corpus"].update(pivot="swh_Latn")),
        lambda path: change_record(path, lambda record: record.update(run="x' or 1=1 --")),
    ],
)
def test_a_damaged_run_record_costs_no_shard(store: Path, good: Path, damage: Callable[[Path], object]) -> None:
    path = store / "runs/run.json"
    before = path.read_bytes()
    damage(path)
    with pytest.raises(StoreError, match=r"runs/run.json|run_sha256"):
        _ = Store(store).commits
    (problem,) = (problem for problem in verify(store).problems if problem.path == "runs/run.json")
    assert problem.commit is None
    verdict = verify(store, repair=True)
    assert verdict.done == ["runs/run.json: is written again, from the copy that 6 shards of it prove"]
    assert path.read_bytes() == before
    assert len(Store(store).commits) == len(Store(good).commits)
    require_equal(store, good)


def test_without_a_copy_a_damaged_run_record_is_named_and_nothing_is_touched(store: Path) -> None:
    (store / layout.run_copy_path("run")).unlink()
    flip(store / "runs/run.json")
    before = files(store)
    verdict = verify(store, repair=True)
    (problem,) = verdict.problems
    assert "6 shards of it need it, and no copy is there: put it back as it was" in problem.what
    assert verdict.done == []
    assert files(store) == before


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()])
def test_a_damaged_copy_is_written_again(store: Path, good: Path, damage: Callable[[Path], object]) -> None:
    path = store / layout.run_copy_path("run")
    damage(path)
    assert len(Store(store).commits) == 6
    verify(store, repair=True)
    assert path.read_bytes() == (store / "runs/run.json").read_bytes()
    require_equal(store, good)


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_text("")])
def test_a_damaged_store_json_is_written_again(store: Path, good: Path, damage: Callable[[Path], object]) -> None:
    before = (store / "store.json").read_bytes()
    damage(store / "store.json")
    with pytest.raises(StoreError, match=r"store.json"):
        Store(store)
    assert verify(store, repair=True).done == ["store.json: is written again, as the records prove it"]
    assert (store / "store.json").read_bytes() == before
    require_equal(store, good)


def test_a_commit_of_another_record_is_taken_out_only_where_others_prove_the_record(store: Path) -> None:
    change_record(store / COMMIT, lambda record: record.update(run_sha256="0" * 64))
    verdict = verify(store)
    assert [repair.claim for repair in verdict.repairs] == [COMMIT.replace("commits", "claims")]
    (store / layout.run_copy_path("run")).unlink()
    for path in (store / "commits").rglob("0*.json"):
        if path != store / COMMIT:
            path.unlink()
    verdict = verify(store)
    assert [problem.path for problem in verdict.problems] == [COMMIT]
    assert verdict.repairs == []  # which of the two is wrong, nobody knows


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("where", [COMMIT, "runs/run.json", "tokens/run=run/lang=deu_Latn/00000.parquet"])
def test_what_could_not_be_read_for_a_moment_is_left_alone(
    store: Path, good: Path, monkeypatch: pytest.MonkeyPatch, code: int, where: str
) -> None:
    for name in ("read", "read_range"):
        read = getattr(LocalStorage, name)

        def refused(self: LocalStorage, path: str, *rest: int, read: Callable[..., bytes] = read) -> bytes:
            if path == where:
                raise OSError(code, "not now", path)
            return read(self, path, *rest)

        monkeypatch.setattr(LocalStorage, name, refused)
    before = files(store)
    verdict = verify(store, repair=True)
    assert verdict.problems
    assert all(problem.passing for problem in verdict.problems if problem.path == where)
    assert verdict.done == []
    assert files(store) == before
    monkeypatch.undo()
    require_equal(store, good)


def test_what_a_living_process_is_at_work_on_is_left_alone(store: Path) -> None:
    data_file(store, "routes").write_bytes(b"rubbish")
    before = files(store)
    with Claims(LocalStorage(store), "run", Store(store).run().sha256()) as claims:
        assert claims.take("deu_Latn", 0)
        verdict = verify(store, repair=True)
        assert verdict.done == []
        assert "is at work on it" in verdict.left[0]
    assert files(store) == before
    assert len(verify(store, repair=True).done) == 1


def test_what_has_changed_since_it_was_looked_at_is_left_alone(store: Path, good: Path) -> None:
    path = data_file(store, "routes")
    content = path.read_bytes()
    path.write_bytes(b"rubbish")
    verdict = verify(store)
    path.write_bytes(content)
    carry_out(LocalStorage(store), verdict)
    assert verdict.done == []
    assert "has changed since" in verdict.left[0]
    require_equal(store, good)


def test_files_published_after_the_listing_are_there(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = LocalStorage.entries
    late = "routes/run=run/lang=deu_Latn/00000.parquet"

    def listed_before(self: LocalStorage, folder: str = "") -> list[object]:
        return [entry for entry in entries(self, folder) if entry.path != late]

    monkeypatch.setattr(LocalStorage, "entries", listed_before)
    verdict = verify(store)
    assert (verdict.problems, verdict.repairs) == ([], [])


@pytest.mark.parametrize("which", ["index", "rows"])
def test_damaged_rollups_are_taken_out(store: Path, good: Path, which: str) -> None:
    index = compact(Store(store), "run").index
    flip(store / (layout.compact_index_path("run") if which == "index" else index.data.path))
    verdict = verify(store, repair=True)
    assert len(verdict.done) == 1
    verdict = verify(store)
    assert (verdict.problems, verdict.repairs) == ([], [])
    for query in QUERIES.values():
        assert answers(store, query) == answers(good, query)


def test_a_damaged_plan_is_taken_out(store: Path) -> None:
    record = Store(store).run()
    write_record(store / layout.plan_path("run"), {"run": "run", "run_sha256": record.sha256(), "shards": {}})
    assert verify(store).problems == []
    change_record(store / layout.plan_path("run"), lambda plan: plan.update(run_sha256="0" * 64))
    assert "is of another record" in verify(store, repair=True).problems[0].what
    assert not (store / layout.plan_path("run")).exists()
    assert verify(store).problems == []


def test_texts_that_were_set_aside_are_counted(store: Path) -> None:
    path = layout.failed_path("run", "deu_Latn", 1)
    failed = {
        "run": "run",
        "lang": "deu_Latn",
        "shard": 1,
        "run_sha256": Store(store).run().sha256(),
        "texts": [{"seq": 4, "text_id": "t", "reason": "too long"}],
    }
    write_record(store / path, failed)
    assert verify(store).failed == {path: 1}
    (store / path).write_text("{}")
    assert [problem.path for problem in verify(store).problems] == [path]


def test_a_record_may_not_be_taken_for_another(store: Path) -> None:
    shards = sorted((store / "commits/run=run/lang=deu_Latn").glob("0*.json"))
    first = read_record(shards[0])
    write_record(shards[1], first)
    (problem,) = verify(store).problems
    assert problem.what == "shard: is the record of deu_Latn/00000 of run 'run'"
    with pytest.raises(StoreError, match="is the record of deu_Latn/00000"):
        _ = Store(store).commits


def test_a_damaged_run_record_that_no_shard_needs_is_taken_out(store: Path, good: Path) -> None:
    (store / "runs/failed.json").write_text('{"run": "failed"}')
    with pytest.raises(StoreError, match=r"runs/failed\.json"):
        _ = Store(store).runs
    assert verify(store, repair=True).done == ["runs/failed.json: is taken out; no shard needs it"]
    require_equal(store, good)


def test_links_are_named_and_neither_followed_nor_moved(store: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious.parquet").write_text("precious")
    compact(Store(store), "run")
    shutil.rmtree(store / "compact/run=run")
    (store / "compact/run=run").symlink_to(victim)
    verdict = verify(store, repair=True)
    assert "compact/run=run" in {problem.path for problem in verdict.problems}
    assert verdict.done == []
    assert "is a symbolic link" in verdict.left[0]
    with pytest.raises(StoreError, match="is a symbolic link, and a store has none"):
        compact(Store(store), "run")
    assert [path.name for path in victim.iterdir()] == ["precious.parquet"]


@pytest.mark.parametrize("seed", range(4))
def test_bits_flipped_anywhere_cost_nothing_that_a_trace_does_not_bring_back(
    store: Path, good: Path, seed: int
) -> None:
    """One after the other, in records and data; what was good before a repair is good, byte for byte, after it."""
    compact(Store(store), "run")
    draw = random.Random(seed)  # noqa: S311
    for _ in range(4):
        before = {path: content for path, content in files(store).items() if not path.startswith("quarantine/")}
        where = draw.choice(sorted(path for path in before if not path.startswith("staging/")))
        content = bytearray(before[where])
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (store / where).write_bytes(content)
        assert verify(store).problems
        verify(store, repair=True)
        after = files(store)
        somewhere = {*after.values()}
        assert all(content in somewhere for path, content in before.items() if path != where)
        traced_again(store)
        assert verify(store).problems == []
    compact(Store(store), "run")
    require_equal(store, good)


def test_a_store_json_that_says_an_older_format_costs_no_shard(store: Path, good: Path) -> None:
    (store / "store.json").write_text('{"format": "moetrace-store", "version": 3}')
    with pytest.raises(StoreError, match=r"store\.json: version: is 3, .* is of version 5"):
        _ = Store(store).commits
    verdict = verify(store, repair=True)
    assert verdict.done == ["store.json: is written again, as the records prove it"]
    require_equal(store, good)
