"""What is written is what is read, a shard is whole or absent, and what cannot be a trace is refused."""

from __future__ import annotations

import hashlib
import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run as moetrace
from moetrace.store.errors import CaptureError, RunMismatchError, StoreError
from moetrace.store.format.layout import checked_language, checked_run
from moetrace.store.format.schema import ADDED_COLUMNS
from moetrace.store.format.weights import MANTISSA_BITS, lies_on, lossless_precision, round_weights
from moetrace.store.read.reader import Store
from moetrace.store.shard.ranking import LayerRanking
from moetrace.store.shard.shard import Shard, token_order
from moetrace.store.verify.verify import verify
from moetrace.store.write.files import PAGE_ROWS
from moetrace.store.write.writer import StoreWriter
from tests.support.examples import examples
from tests.support.stores import make_record

if TYPE_CHECKING:
    from moetrace.store.format.records import RunRecord

LAYERS, EXPERTS, TOP_K = 3, 8, 2


def make_shard(
    seed: int = 0, lengths: tuple[int, ...] = (4, 1, 7), experts: int = EXPERTS, top_k: int = TOP_K
) -> Shard:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    logits = rng.normal(size=(total, LAYERS, experts)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argpartition(-probabilities, top_k - 1, axis=-1)[..., :top_k]
    weights = np.take_along_axis(probabilities, chosen, -1)
    starts = np.cumsum(lengths) - lengths
    return Shard(
        lang="eng_Latn",
        number=0,
        seqs=np.arange(len(lengths), dtype=np.int32),
        text_ids=[f"t{i}" for i in range(len(lengths))],
        lengths=np.array(lengths, dtype=np.int32),
        truncated=np.zeros(len(lengths), dtype=bool),
        token_ids=rng.integers(0, 9, total).astype(np.int32),
        experts=chosen.astype(np.uint8 if experts <= 256 else np.uint16),
        weights=(weights / weights.sum(-1, keepdims=True)).astype(np.float32),
        profiles=(np.add.reduceat(probabilities, starts) / np.array(lengths)[:, None, None]).astype(np.float32),
    )


def record_with(**settings: Any) -> RunRecord:
    record = make_record(languages=("eng_Latn",))
    return replace(record, settings={**record.settings, **settings})


def table(store: Store, name: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file.location, hive_partitioning=False) for file in store.files(name)])


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
    shard = make_shard(seed, lengths, experts, top_k)
    record = make_record(languages=("eng_Latn",), num_experts=experts, top_k=top_k)
    StoreWriter(root, record).write(shard)
    opened = Store(root)
    tokens = table(opened, "tokens").sort("seq", "position")
    assert tokens["token_id"].to_list() == shard.token_ids.tolist()
    assert tokens["position"].to_list() == shard.positions().tolist()
    number = tokens["token"].to_numpy()
    assert sorted(number) == list(range(shard.tokens))
    routes = table(opened, "routes")
    assert routes.equals(routes.sort("layer", "rank", "token"))
    assert len(routes) == shard.tokens * LAYERS * top_k
    grid = (LAYERS, top_k, shard.tokens)
    found_experts = routes["expert"].to_numpy().reshape(grid)[:, :, number].transpose(2, 0, 1)
    found_weights = routes["weight"].to_numpy().reshape(grid)[:, :, number].transpose(2, 0, 1)
    order = np.lexsort((shard.experts, -shard.weights), axis=-1)
    assert np.array_equal(found_experts, np.take_along_axis(shard.experts, order, -1))
    assert np.array_equal(found_weights, np.take_along_axis(shard.weights, order, -1))
    profiles = table(opened, "profiles").sort("seq", "layer", "expert")["probability"].to_numpy()
    assert np.array_equal(profiles.reshape(shard.profiles.shape), shard.profiles)


def test_roll_ups_equal_a_recount(tmp_path: Path) -> None:
    shard = make_shard(3, (5, 2, 9, 1))
    StoreWriter(tmp_path, record_with(weight_precision="f16")).write(shard)
    opened = Store(tmp_path)
    routes = (
        table(opened, "routes").join(table(opened, "tokens"), on="token").join(table(opened, "sequences"), on="seq")
    )
    recount = routes.group_by("layer", "expert").agg(
        count=pl.len(),
        weight_sum=pl.col("weight").cast(pl.Float64).sum(),
        sequence_share_sum=(1 / (pl.col("tokens") * TOP_K)).sum(),
    )
    usage = table(opened, "usage")
    assert len(usage) == LAYERS * EXPERTS
    both = usage.join(recount, on=("layer", "expert"), how="left", suffix="_again").fill_null(0)
    assert both["count"].to_list() == both["count_again"].to_list()
    for name in ("weight_sum", "sequence_share_sum"):
        assert np.allclose(both[name], both[f"{name}_again"], rtol=1e-12, atol=1e-12)
    profiles = table(opened, "profiles").join(table(opened, "sequences"), on="seq")
    means = profiles.group_by("layer", "expert").agg(
        sequence_probability_sum=pl.col("probability").cast(pl.Float64).sum(),
        probability_sum=(pl.col("probability").cast(pl.Float64) * pl.col("tokens")).sum(),
    )
    both = usage.join(means, on=("layer", "expert"), suffix="_again")
    for name in ("probability_sum", "sequence_probability_sum"):
        assert np.allclose(both[name], both[f"{name}_again"], rtol=1e-9)


def test_columns_carry_their_meaning_and_layers_are_row_groups(tmp_path: Path) -> None:
    StoreWriter(tmp_path, record_with()).write(make_shard())
    for name in ("routes", "tokens", "sequences", "profiles", "usage"):
        (file,) = Store(tmp_path).files(name)
        parquet = pq.ParquetFile(file.location)
        assert parquet.metadata.num_rows == file.rows
        assert all(field.metadata[b"description"] for field in parquet.schema_arrow)
        if name == "routes":
            assert parquet.metadata.num_row_groups == LAYERS
            layers = [parquet.metadata.row_group(i).column(0).statistics.min for i in range(LAYERS)]
            assert layers == [1, 2, 5]
            assert not any(field.nullable for field in parquet.schema_arrow)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (2, 2), (5, 3), (8, 8), (256, 4), (257, 4), (9000, 2)]),
    st.integers(1, 40),
    st.sampled_from(list(MANTISSA_BITS)),
)
@examples(60)
def test_ranks_fall_by_rounded_weight_and_rise_by_expert_where_weights_are_equal(
    seed: int, shape: tuple[int, int], tokens: int, precision: str
) -> None:
    size, top_k = shape
    rng = np.random.default_rng(seed)
    kind = np.uint8 if size <= 256 else np.uint16
    experts = np.stack([rng.choice(size, top_k, replace=False) for _ in range(tokens)], axis=1).astype(kind)
    weights = rng.choice([0, 1e-30, 0.2, 0.2001, 0.5, 3], (top_k, tokens)).astype(np.float32)
    rounded = round_weights(weights, precision)
    columns = rng.permutation(tokens)
    ranking = LayerRanking(tokens, top_k, size, precision)
    for _ in range(2):  # what one layer leaves behind does not change the next
        ranking.rank(experts, rounded, columns)
        order = np.lexsort((experts[:, columns], -rounded[:, columns]), axis=0)
        assert np.array_equal(ranking.experts, np.take_along_axis(experts[:, columns], order, axis=0))
        assert np.array_equal(ranking.weights, np.take_along_axis(rounded[:, columns], order, axis=0))


@given(st.integers(0, 1000), st.integers(1, 200), st.sampled_from([(2, 1), (64, 8), (70_000, 12)]))
@examples(25)
def test_tokens_are_numbered_by_id_then_by_ranked_experts(seed: int, tokens: int, shape: tuple[int, int]) -> None:
    size, top_k = shape
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, 5, tokens).astype(np.int32)
    experts = rng.integers(0, min(size, 65536), (top_k, tokens)).astype(np.uint16)
    order = token_order(token_ids, experts, size)
    assert sorted(order) == list(range(tokens))
    keys = list(zip(token_ids[order].tolist(), experts[0][order].tolist(), strict=True))
    assert keys == sorted(keys)


def test_tokens_whose_ids_nobody_knows_are_numbered_by_their_experts_and_have_null_ids(tmp_path: Path) -> None:
    shard = make_shard(9, (30, 1, 12))
    known, unknown = (tmp_path / name for name in ("known", "unknown"))
    StoreWriter(known, record_with()).write(shard)
    StoreWriter(unknown, record_with()).write(replace(shard, token_ids=None))
    tokens = table(Store(unknown), "tokens")
    assert tokens["token_id"].null_count() == len(tokens) == shard.tokens
    routes = table(Store(unknown), "routes").filter(pl.col("layer") == 1)
    ranked = routes.pivot("rank", index="token", values="expert").sort("token")
    pairs = ranked.select("0", "1").rows()
    assert pairs == sorted(pairs)
    decisions = [
        table(Store(path), "routes")
        .join(table(Store(path), "tokens"), on="token")
        .select("seq", "position", "layer", "rank", "expert", "weight")
        .sort("seq", "position", "layer", "rank")
        for path in (known, unknown)
    ]
    assert decisions[0].equals(decisions[1])
    assert table(Store(known), "usage").equals(table(Store(unknown), "usage"))
    assert verify(unknown).problems == []


@pytest.mark.parametrize("tokens", [(1,), (PAGE_ROWS // TOP_K - 1, 3), (PAGE_ROWS + 1,)])
def test_shards_of_one_page_and_of_many_are_read_back_by_duckdb(tmp_path: Path, tokens: tuple[int, ...]) -> None:
    shard = make_shard(5, tokens)
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
            int(shard.experts[:, index].sum(dtype=np.int64)),
            float(shard.weights[:, index].sum(dtype=np.float64)),
        ]
        assert sums == pytest.approx(expected, rel=1e-9)


def test_a_disk_that_fills_up_while_routes_are_written_is_one_line_and_commits_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, record_with())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be written \(File too large\); what was committed is safe"):
            writer.write(make_shard(6, (20_000,)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Store(tmp_path).commits == []
    assert not list(tmp_path.rglob("*.parquet"))
    assert writer.write(make_shard(6, (20_000,))).tokens == 20_000


def test_commit_records_hold_the_size_and_checksum_of_what_is_on_disk(tmp_path: Path) -> None:
    commit = StoreWriter(tmp_path, record_with()).write(make_shard(7, (60_000,)))
    for file in commit.files:
        content = (tmp_path / file.path).read_bytes()
        assert file.bytes == len(content)
        assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_a_flipped_byte_is_noticed_by_page_checksums(tmp_path: Path) -> None:
    StoreWriter(tmp_path, record_with()).write(make_shard(8, (5_000,)))
    (file,) = Store(tmp_path).files("routes")
    content = bytearray(Path(file.location).read_bytes())
    content[len(content) // 2] ^= 1
    Path(file.location).write_bytes(content)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(file.location, page_checksum_verification=True, partitioning=None)


@given(st.lists(st.floats(2.0**-100, 4, width=32), min_size=1, max_size=50), st.sampled_from(list(MANTISSA_BITS)))
def test_rounding_keeps_within_half_a_step_and_keeps_order(values: list[float], precision: str) -> None:
    weights = np.sort(np.array(values, dtype=np.float32))
    rounded = round_weights(weights, precision)
    assert np.all(np.abs(rounded - weights) <= weights * 2.0 ** -(MANTISSA_BITS[precision] + 1))
    assert np.all(np.diff(rounded) >= 0)
    assert lies_on(rounded, precision)
    assert np.array_equal(round_weights(rounded, precision), rounded)


def test_auto_precision_loses_nothing_of_bf16_weights() -> None:
    exact = round_weights(np.random.default_rng(0).random(1000, dtype=np.float32), "bf16")
    assert lossless_precision(exact) == "bf16"
    assert lossless_precision(exact + np.float32(1e-5)) == "f16"


def broken(shard: Shard, what: str) -> Shard:
    experts, weights, profiles = shard.experts.copy(), shard.weights.copy(), shard.profiles.copy()
    match what:
        case "expert id":
            experts[2, 1, 0] = EXPERTS
        case "twice":
            experts[2, 1] = experts[2, 1, 0]
        case "zero":
            experts[:, 2], weights[:, 2] = np.arange(TOP_K), 0
        case "NaN":
            weights[3, 0, 1] = np.nan
        case "negative":
            weights[3, 0] = (1.5, -0.5)
        case "sum":
            weights[3, 0] *= 0.9
        case "profile":
            profiles[1, 2] *= 0.5
        case "shape":
            return replace(shard, experts=experts[:-1])
        case "empty":
            return replace(shard, lengths=np.array([4, 0, 8], dtype=np.int32))
    return replace(shard, experts=experts, weights=weights, profiles=profiles)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("expert id", "layer 2: expert id 8, but the layer has 8 experts"),
        ("twice", "layer 2: the same expert twice"),
        ("zero", "layer 5: every gate weight is zero"),
        ("NaN", "layer 1: a gate weight is NaN, infinite or negative"),
        ("negative", "layer 1: a gate weight is NaN, infinite or negative"),
        ("sum", r"layer 1: gate weights of a token sum to 0.9\d* to .*, the run record says 1"),
        ("profile", "a profile is not a probability distribution"),
        ("shape", r"experts has shape \(11, 3, 2\), the plan says \(12, 3, 2\)"),
        ("empty", "a text without tokens"),
    ],
)
def test_a_poisoned_capture_is_refused_and_nothing_is_written(tmp_path: Path, what: str, message: str) -> None:
    writer = StoreWriter(tmp_path, record_with())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CaptureError, match=message):
        writer.write(broken(make_shard(), what))
    assert sorted(tmp_path.rglob("*")) == before


def test_token_ids_that_are_fewer_than_the_tokens_are_refused(tmp_path: Path) -> None:
    shard = make_shard()
    with pytest.raises(CaptureError, match=r"token_ids has shape \(11,\), the plan says \(12,\)"):
        StoreWriter(tmp_path, record_with()).write(replace(shard, token_ids=shard.token_ids[:-1]))


def test_weights_off_a_promised_grid_are_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, record_with(weight_precision="bf16", weight_precision_exact=True))
    with pytest.raises(CaptureError, match="do not lie on the bf16 grid"):
        writer.write(make_shard())


def test_a_write_that_fails_leaves_nothing_a_reader_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StoreWriter(tmp_path, record_with())
    monkeypatch.setattr(UsageFailure.target, "table", UsageFailure.fail)
    with pytest.raises(StoreError, match="no space left on device"):
        writer.write(make_shard())
    assert Store(tmp_path).commits == []
    assert list((tmp_path / "staging").iterdir()) == []
    assert not list(tmp_path.rglob("*.parquet"))


class UsageFailure:
    from moetrace.store.shard.rollup import UsageRollup as target  # noqa: N813

    @staticmethod
    def fail(_: object) -> None:
        raise OSError(28, "no space left on device")


def test_readers_list_commit_records_and_not_files(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, record_with())
    commit = writer.write(make_shard())
    writer.write(replace(make_shard(1), number=1))
    assert [found.shard for found in Store(tmp_path).commits] == [0, 1]
    (tmp_path / "commits/run=run/lang=eng_Latn/00001.json").unlink()
    assert Store(tmp_path).commits == [commit]
    assert [file.shard for file in Store(tmp_path).files("usage")] == [0]


def test_writing_a_shard_twice_gives_the_same_files(tmp_path: Path) -> None:
    one, two = (StoreWriter(tmp_path / name, record_with()).write(make_shard()) for name in "ab")
    assert one.files == two.files


def test_a_run_with_another_record_is_refused_naming_the_field(tmp_path: Path) -> None:
    StoreWriter(tmp_path, record_with()).write(make_shard())
    with pytest.raises(RunMismatchError, match=r"settings.weight_precision: 'f32' in the store, 'f16' now"):
        StoreWriter(tmp_path, record_with(weight_precision="f16"))
    later = replace(record_with(), provenance={"created": "later"})
    assert StoreWriter(tmp_path, later).is_committed("eng_Latn", 0)


def test_stores_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        Store(tmp_path / "nowhere")
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"not a moetrace store \(no store.json\)"):
        Store(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"format": "moetrace-store", "version": 99}))
    with pytest.raises(StoreError, match="format version 99, this moetrace reads up to 3"):
        Store(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        Store(tmp_path)


def test_a_folder_of_other_files_is_not_made_into_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not empty and not a moetrace store"):
        StoreWriter(tmp_path, record_with())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".", "a b", "x" * 65, "-x", "ä"])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="language code"):
        checked_language(name)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".hidden"])
def test_run_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="run name"):
        checked_run(name)


def test_a_store_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file/store: cannot be written \(Not a directory\)"):
        StoreWriter(tmp_path / "file" / "store", record_with())


def test_generated_tokens_are_marked_and_the_text_is_kept(tmp_path: Path) -> None:
    shard = make_shard()
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


def made_in_the_first_format(path: Path) -> Path:
    """Write a shard as the first format had it: columns were missing, and commit records had no block checksums."""
    StoreWriter(path, record_with()).write(make_shard())
    (commit,) = path.rglob("commits/**/*.json")
    record = json.loads(commit.read_text())
    del record["version"]
    for file in record["files"]:
        if lacking := list(ADDED_COLUMNS[2].get(file["table"], {})):
            content = pq.read_table(path / file["path"], partitioning=None)
            pq.write_table(content.drop_columns(lacking), path / file["path"])
        written = (path / file["path"]).read_bytes()
        del file["crc32"]
        file.update(bytes=len(written), sha256=hashlib.sha256(written).hexdigest())
    commit.write_text(json.dumps(record))
    (path / "store.json").write_text('{"format": "moetrace-store", "version": 1}\n')
    return path


def test_a_store_of_the_first_format_is_read_but_not_written(tmp_path: Path) -> None:
    db = connect(made_in_the_first_format(tmp_path))
    assert db.sql("select distinct generated, text from sequences").fetchall() == [(0, None)]
    assert db.sql("select distinct generated from tokens").fetchall() == [(False,)]
    with pytest.raises(StoreError, match="made in format version 1, this moetrace writes 3; `moetrace upgrade"):
        StoreWriter(tmp_path, record_with())


def test_an_upgraded_store_has_shards_of_both_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moetrace(["upgrade", str(made_in_the_first_format(tmp_path))]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: format version 1 -> 3\n"
    assert verify(tmp_path).problems == []
    StoreWriter(tmp_path, record_with()).write(replace(make_shard(1), number=1, seqs=make_shard().seqs + 100))
    db = connect(tmp_path)
    assert db.sql("select shard, bool_or(generated), count(*) > 0 from tokens group by 1 order by 1").fetchall() == [
        (0, False, True),
        (1, False, True),
    ]
    assert moetrace(["upgrade", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: has format version 3 already\n"
    counted = "select shard, count(*) from routes group by 1 order by 1"
    assert connect(tmp_path).sql(counted).fetchall() == db.sql(counted).fetchall()
