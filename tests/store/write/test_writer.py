"""What is written is what is read, and a shard is whole or absent."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import CaptureError, StoreError
from moetrace.store.format import layout
from moetrace.store.format.plan_record import PlanRecord
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.files import PAGE_ROWS
from moetrace.store.write.writer import StoreWriter
from tests.support.examples import examples
from tests.support.shards import LAYERS, TOP_K, random_shard, record_with, rows_of
from tests.support.stores import make_record


@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple),
    st.sampled_from([(2, 1), (8, 2), (8, 8), (255, 3), (256, 3), (257, 3), (512, 2)]),
)
@examples(25)
def test_every_decision_comes_back_at_its_position(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: tuple[int, ...], shape: tuple[int, int]
) -> None:
    experts, top_k = shape
    root = tmp_path_factory.mktemp("store")
    shard = random_shard(seed, lengths, experts, top_k)
    record = make_record(languages=("eng_Latn",), num_experts=experts, top_k=top_k)
    StoreWriter(root, record).write(shard)
    opened = Store(root)
    tokens = rows_of(opened, "tokens").sort("seq", "position")
    assert tokens["token_id"].to_list() == shard.token_ids.tolist()
    assert tokens["position"].to_list() == shard.positions().tolist()
    number = tokens["token"].to_numpy()
    assert sorted(number) == list(range(shard.tokens))
    routes = rows_of(opened, "routes")
    assert routes.equals(routes.sort("layer", "rank", "token"))
    assert len(routes) == shard.tokens * LAYERS * top_k
    grid = (LAYERS, top_k, shard.tokens)
    found_experts = routes["expert"].to_numpy().reshape(grid)[:, :, number]
    found_weights = routes["weight"].to_numpy().reshape(grid)[:, :, number]
    order = np.lexsort((shard.experts, -shard.weights), axis=1)
    assert np.array_equal(found_experts, np.take_along_axis(shard.experts, order, 1))
    assert np.array_equal(found_weights, np.take_along_axis(shard.weights, order, 1))
    profiles = rows_of(opened, "profiles").sort("layer", "seq", "expert")["probability"].to_numpy()
    assert np.array_equal(profiles.reshape(shard.profiles.shape), shard.profiles)


def test_tokens_whose_ids_nobody_knows_are_numbered_by_their_experts_and_have_null_ids(tmp_path: Path) -> None:
    shard = random_shard(9, (30, 1, 12))
    known, unknown = (tmp_path / name for name in ("known", "unknown"))
    StoreWriter(known, record_with()).write(shard)
    StoreWriter(unknown, record_with()).write(replace(shard, token_ids=None))
    tokens = rows_of(Store(unknown), "tokens")
    assert tokens["token_id"].null_count() == len(tokens) == shard.tokens
    routes = rows_of(Store(unknown), "routes").filter(pl.col("layer") == 1)
    ranked = routes.pivot("rank", index="token", values="expert").sort("token")
    pairs = ranked.select("0", "1").rows()
    assert pairs == sorted(pairs)
    decisions = [
        rows_of(Store(path), "routes")
        .join(rows_of(Store(path), "tokens"), on="token")
        .select("seq", "position", "layer", "rank", "expert", "weight")
        .sort("seq", "position", "layer", "rank")
        for path in (known, unknown)
    ]
    assert decisions[0].equals(decisions[1])
    assert rows_of(Store(known), "usage").equals(rows_of(Store(unknown), "usage"))
    assert verify(unknown).problems == []


@pytest.mark.parametrize("tokens", [(1,), (PAGE_ROWS // TOP_K - 1, 3), (PAGE_ROWS + 1,)])
def test_shards_of_one_page_and_of_many_are_read_back_by_duckdb(tmp_path: Path, tokens: tuple[int, ...]) -> None:
    shard = random_shard(5, tokens)
    StoreWriter(tmp_path, record_with()).write(shard)
    (file,) = Store(tmp_path).files("routes")
    found = duckdb.sql(
        "select layer, count(*), sum(token), sum(rank), sum(expert), sum(weight) "
        f"from '{file.location}' group by layer order by layer"
    ).fetchall()
    total = shard.tokens
    for index, (layer, *sums) in enumerate(found):
        assert layer == (1, 2, 5)[index]
        expected = [
            total * TOP_K,
            TOP_K * total * (total - 1) // 2,
            total,  # ranks 0 and 1
            int(shard.experts[index].sum(dtype=np.int64)),
            float(shard.weights[index].sum(dtype=np.float64)),
        ]
        assert sums == pytest.approx(expected, rel=1e-9)


def test_a_disk_that_fills_up_while_routes_are_written_is_one_line_and_commits_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, record_with())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be written \(File too large\); what was committed is safe"):
            writer.write(random_shard(6, (20_000,)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Store(tmp_path).commits == []
    assert not list(tmp_path.rglob("*.parquet"))
    assert writer.write(random_shard(6, (20_000,))).tokens == 20_000


def test_commit_records_hold_the_size_and_checksum_of_what_is_on_disk(tmp_path: Path) -> None:
    commit = StoreWriter(tmp_path, record_with()).write(random_shard(7, (60_000,)))
    for file in commit.files:
        content = (tmp_path / file.path).read_bytes()
        assert file.bytes == len(content)
        assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_a_flipped_byte_is_noticed_by_page_checksums(tmp_path: Path) -> None:
    StoreWriter(tmp_path, record_with()).write(random_shard(8, (5_000,)))
    (file,) = Store(tmp_path).files("routes")
    content = bytearray(Path(file.location).read_bytes())
    content[len(content) // 2] ^= 1
    Path(file.location).write_bytes(content)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(file.location, page_checksum_verification=True, partitioning=None)


def test_weights_off_a_promised_grid_are_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, record_with(weight_precision="bf16", weight_precision_exact=True))
    with pytest.raises(CaptureError, match="do not lie on the bf16 grid"):
        writer.write(random_shard())


def test_a_write_that_fails_leaves_nothing_a_reader_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StoreWriter(tmp_path, record_with())
    monkeypatch.setattr(UsageFailure.target, "table", UsageFailure.fail)
    with pytest.raises(StoreError, match="no space left on device"):
        writer.write(random_shard())
    assert Store(tmp_path).commits == []
    assert list((tmp_path / "staging").iterdir()) == []
    assert not list(tmp_path.rglob("*.parquet"))


class UsageFailure:
    from moetrace.store.shard.rollup import UsageRollup as target  # noqa: N813

    @staticmethod
    def fail(_: object) -> None:
        raise OSError(28, "no space left on device")


def test_writing_a_shard_twice_gives_the_same_files(tmp_path: Path) -> None:
    one, two = (StoreWriter(tmp_path / name, record_with()).write(random_shard()) for name in "ab")
    assert one.files == two.files


def test_a_folder_of_other_files_is_not_made_into_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not empty and not a moetrace store"):
        StoreWriter(tmp_path, record_with())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file/store: cannot be written \(Not a directory\)"):
        StoreWriter(tmp_path / "file" / "store", record_with())


def test_generated_tokens_are_marked_and_the_text_is_kept(tmp_path: Path) -> None:
    shard = random_shard()
    generated = np.minimum(shard.lengths - 1, 2).astype(np.int32)
    texts = [f"text {number}" for number in range(len(shard.lengths))]
    StoreWriter(tmp_path, record_with()).write(replace(shard, generated=generated, texts=texts))
    db = connect(tmp_path)
    assert db.sql("select generated, text from sequences order by seq").fetchall() == [
        *zip(generated.tolist(), texts, strict=True)
    ]
    counted = (
        "select seq, count(*) filter (generated), min(position) filter (generated) from tokens group by 1 order by 1"
    )
    first = [int(n - g) if g else None for n, g in zip(shard.lengths, generated, strict=True)]
    assert db.sql(counted).fetchall() == [*zip(shard.seqs.tolist(), generated.tolist(), first, strict=True)]


def test_a_first_attempt_that_fails_blocks_nothing(tmp_path: Path) -> None:
    wrong = record_with(weight_precision="f16", weight_precision_exact=True)
    with StoreWriter(tmp_path, wrong) as writer:
        assert writer.claim("eng_Latn", 0)
        with pytest.raises(CaptureError, match="do not lie on the f16 grid"):
            writer.write(random_shard())
    assert not (tmp_path / "runs").exists()
    with StoreWriter(tmp_path, record_with()) as writer:
        writer.write(random_shard())
    assert verify(tmp_path).problems == []


def test_a_record_that_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    for settings in ({"temperature": float("nan")}, {"tables": ["usage", "usage"]}, {"weight_precision": "f8"}):
        with pytest.raises(StoreError, match="the record of run 'run'"):
            StoreWriter(tmp_path, record_with(**settings))
    record = record_with()
    with pytest.raises(StoreError, match="top_k is 9, a layer has 8 experts"):
        StoreWriter(tmp_path, replace(record, model={**record.model, "top_k": 9}))
    assert list(tmp_path.iterdir()) == []


def test_the_run_record_has_a_copy_and_the_plan_stands_beside_it(tmp_path: Path) -> None:
    StoreWriter(tmp_path, record_with(), {"eng_Latn": [(5, 50), (1, 2)]}).write(random_shard())
    copy = tmp_path / layout.run_copy_path("run")
    assert copy.read_bytes() == (tmp_path / layout.run_path("run")).read_bytes()
    plan = PlanRecord.from_json((tmp_path / layout.plan_path("run")).read_bytes(), "plan")
    assert plan.sizes == {"eng_Latn/00000": (5, 50), "eng_Latn/00001": (1, 2)}
    assert plan.run_sha256 == Store(tmp_path).run().sha256()
    copy.unlink()
    StoreWriter(tmp_path, record_with()).write(replace(random_shard(1), number=1, seqs=random_shard().seqs + 100))
    assert copy.exists()


def test_strange_files_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"\0strange")
    StoreWriter(tmp_path, record_with()).write(random_shard())
    for name in ("commits/run=run/lang=eng_Latn/.DS_Store", "runs/._run.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0strange")
    with StoreWriter(tmp_path, record_with()) as writer:
        assert writer.committed() == {"eng_Latn/00000"}
    assert list(Store(tmp_path).runs) == ["run"]
    verdict = verify(tmp_path)
    assert (verdict.problems, len(verdict.ignored)) == ([], 3)


def test_a_copy_with_its_times_still_uses_what_was_compacted(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "store", record_with()).write(random_shard())
    compact(Store(tmp_path / "store"), "run")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")  # with times, as cp -a
    assert len(Store(tmp_path / "copy").rollups()[0]) == 1
    assert verify(tmp_path / "copy").notes == []
    os.utime(tmp_path / "copy" / layout.commit_path("run", "eng_Latn", 0))
    assert Store(tmp_path / "copy").rollups()[0] == []
    assert verify(tmp_path / "copy").notes == [
        "compact/run=run.json: is of other shards than there are; `moetrace compact` renews it"
    ]
