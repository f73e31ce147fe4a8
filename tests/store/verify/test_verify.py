"""`verify` finds whatever is wrong with a store, and SQL never returns a number from a damaged file."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect, in_words
from moetrace.analytics.database.query import QueryError, connect_safely, run_query
from moetrace.cli.main import run as moetrace
from moetrace.store.errors import MoetraceError, StoreError
from moetrace.store.format.blocks import BLOCK
from moetrace.store.format.schema import TABLE_NAMES, tables
from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.shard.shard import Shard
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.examples import examples
from tests.support.stores import make_record, make_shard, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Callable

QUERIES = {
    "routes": "select layer, sum(expert), sum(weight), sum(token), sum(rank) from routes group by all order by all",
    "tokens": "select sum(token), sum(seq), sum(position), sum(token_id), sum(generated::int) from tokens",
    "sequences": "select sum(seq), string_agg(text_id, ',' order by lang, seq), sum(tokens) from sequences",
    "profiles": "select layer, expert, sum(seq), sum(probability) from profiles group by all order by all",
    "usage": "select * from usage_by_language order by all",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "store"
    write_world(path, make_world(seed=3, texts=8), texts_in_shard=4)
    return path


@pytest.fixture
def store(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "store"))


def data_file(store: Path, table: str, lang: str = "deu_Latn") -> Path:
    return store / table / "run=run" / f"lang={lang}" / "00000.parquet"


def answers(store: Path, query: str) -> list[tuple[Any, ...]] | None:
    """Return what SQL says; None where it refuses to."""
    try:
        return connect(store).sql(query).fetchall()
    except (MoetraceError, duckdb.Error):
        return None


def test_a_good_store_has_no_problem(good: Path) -> None:
    verdict = verify(good)
    assert verdict.problems == verdict.orphans == verdict.unfinished == verdict.claims == []
    assert verdict.shards == len(Store(good).commits)
    assert verdict.files == 5 * verdict.shards
    assert verdict.bytes == sum(path.stat().st_size for path in good.rglob("*.parquet"))


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_a_file_cut_off_anywhere_is_named_and_never_read(store: Path, table: str) -> None:
    path = data_file(store, table)
    content = path.read_bytes()
    for size in np.linspace(0, len(content) - 1, 20).astype(int).tolist():
        path.write_bytes(content[:size])
        (problem,) = verify(store, quick=True).problems
        assert problem.path == str(path.relative_to(store))
        assert problem.what == f"has {size} bytes, the commit record says {len(content)}"
        assert answers(store, QUERIES[table]) is None
    path.unlink()
    assert [problem.what for problem in verify(store).problems] == ["is missing"]
    assert answers(store, QUERIES[table]) is None


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_a_flipped_bit_anywhere_is_named_and_never_changes_a_number(store: Path, table: str) -> None:
    path = data_file(store, table)
    content, right = path.read_bytes(), answers(store, QUERIES[table])
    assert right
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(content), 20).tolist():
        broken = bytearray(content)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        (problem,) = verify(store).problems
        assert problem.path == str(path.relative_to(store))
        assert "SHA-256" in problem.what
        found = answers(store, QUERIES[table])
        assert found in (None, right)
        refused += found is None
    assert refused > 10


def test_the_shell_says_in_one_line_which_file_is_damaged(store: Path, good: Path) -> None:
    path = data_file(store, "routes")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    damaged = r"^\S+: routes/run=run/lang=deu_Latn/00000.parquet: damaged near byte 0; see `moetrace verify`[^\n]*$"
    with pytest.raises(StoreError, match=damaged):
        _ask(store, "select sum(expert) from routes")
    with pytest.raises(QueryError, match=r"^catalog: "):
        _ask(good, "select * from nothing")


def _ask(store: Path, query: str) -> None:
    for found in run_query(connect_safely(store), query):
        with in_words():
            found.fetchall()


def test_only_what_is_read_is_checked(tmp_path: Path) -> None:
    world = make_world(seed=0, record=make_record(num_experts=64, top_k=8), texts=900)
    (path,) = {
        file.location for file in write_world(tmp_path, world, 10_000).files("routes") if file.lang == "eng_Latn"
    }
    content = bytearray(Path(path).read_bytes())
    assert len(content) > 3 * BLOCK
    content[-2 * BLOCK] ^= 1  # in the last layer
    Path(path).write_bytes(content)
    assert answers(tmp_path, "select sum(expert) from routes where layer = 1")
    assert answers(tmp_path, "select sum(expert) from routes where layer = 5") is None


def test_one_bad_shard_does_not_hide_another(store: Path) -> None:
    for lang in ("deu_Latn", "swh_Latn"):
        data_file(store, "tokens", lang).write_bytes(b"")
    verdict = verify(store)
    assert [problem.path.split("/")[2] for problem in verdict.problems] == ["lang=deu_Latn", "lang=swh_Latn"]
    assert verdict.shards == len(Store(store).commits)


def test_repair_lets_the_next_trace_do_the_shard_again(store: Path, good: Path) -> None:
    world = make_world(seed=3, texts=8)
    data_file(store, "routes").write_bytes(b"rubbish")
    (store / "commits/run=run/lang=eng_Latn/00000.json").write_text("{")
    verdict = verify(store, repair=True)
    assert verdict.dropped == [f"commits/run=run/lang={lang}/00000.json" for lang in ("deu_Latn", "eng_Latn")]
    assert len(verify(store).orphans) == 10
    write_world(store, world, texts_in_shard=4)
    verdict = verify(store)
    assert (verdict.problems, verdict.orphans) == ([], [])
    for query in QUERIES.values():
        assert answers(store, query) == answers(good, query)


def test_what_writers_leave_is_listed_and_is_no_problem(store: Path) -> None:
    orphan = store / "routes/run=run/lang=eng_Latn/00099.parquet"
    orphan.write_bytes(b"half")
    (store / "staging/123-abc").mkdir(parents=True)
    verdict = verify(store)
    assert verdict.problems == []
    assert verdict.orphans == ["routes/run=run/lang=eng_Latn/00099.parquet"]
    assert verdict.unfinished == ["staging/123-abc"]


def rewritten(store: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table of a shard and its commit record: all checksums are right, the content is not."""
    path = data_file(store, table)
    rows = change(pq.read_table(path, partitioning=None))
    groups = 3 if table == "routes" else 1
    pq.write_table(rows, path, row_group_size=max(1, len(rows) // groups), compression="zstd")
    record = store / "commits/run=run/lang=deu_Latn/00000.json"
    commit = json.loads(record.read_text())
    (file,) = (file for file in commit["files"] if file["table"] == table)
    content = path.read_bytes()
    file.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), rows=len(rows))
    del file["crc32"]
    record.write_text(json.dumps(commit))


def column(name: str, change: Callable[[np.ndarray], np.ndarray], rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index(name)
    values = rows.column(name).to_numpy().copy()
    return rows.set_column(at, rows.schema.field(name), pa.array(change(values), rows.schema.field(name).type))


def put(at: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[at] = value
        return values

    return change


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("routes", partial(column, "expert", put(0, 200)), "expert id 200"),
        ("routes", partial(column, "expert", np.zeros_like), "the same expert twice in one token"),
        ("routes", partial(column, "weight", put(0, 0.001)), "ranks do not follow the gate weights"),
        ("routes", partial(column, "weight", lambda v: v * 0), "every gate weight is zero"),
        ("routes", partial(column, "weight", put(0, np.nan)), "NaN, infinite or negative"),
        ("routes", partial(column, "weight", lambda v: v / 2), "the run record says 1"),
        ("routes", partial(column, "token", lambda v: v[::-1]), "is not in the order of ranks and tokens"),
        ("routes", partial(column, "layer", put(0, 5)), "row group 0 is not layer 1"),
        ("routes", lambda rows: rows.slice(0, len(rows) - 3), "rows, "),
        ("usage", partial(column, "count", lambda v: np.roll(v, 1)), "count of the roll-up is not what the routes add"),
        ("usage", partial(column, "count", put(0, 10_000)), "counts of a layer do not sum to"),
        ("usage", partial(column, "weight_sum", put(0, 7.5)), "weight_sum of the roll-up"),
        ("usage", partial(column, "sequence_share_sum", put(0, 7.5)), "sequence_share_sum of the roll-up"),
        (
            "usage",
            partial(column, "probability_sum", put(0, 7.5)),
            "probability_sum is not what the profiles add up to",
        ),
        ("profiles", partial(column, "probability", put(0, 0.9)), "is not a probability distribution"),
        ("profiles", partial(column, "seq", lambda v: v[::-1]), "is not in the order of layers, texts and experts"),
        ("tokens", partial(column, "position", put(0, 99)), "has a position outside its text"),
        ("tokens", partial(column, "seq", put(0, 77)), "has tokens of a text that the shard does not have"),
        ("tokens", partial(column, "token", put(0, 1)), "does not have each of the"),
        ("tokens", partial(column, "token_id", put(0, -5)), "has a negative token id"),
        ("sequences", partial(column, "tokens", put(0, 1)), "the commit record says"),
        ("sequences", partial(column, "seq", put(0, 1)), "a text stands twice"),
        ("sequences", partial(column, "generated", put(0, 99)), "more generated tokens than tokens"),
        ("sequences", lambda rows: rows.drop_columns(["text"]), "has columns seq"),
    ],
)
def test_numbers_that_contradict_each_other_are_found(
    store: Path, table: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    rewritten(store, table, change)
    problems = verify(store).problems
    assert any(message in problem.what for problem in problems), problems
    assert all("cannot be checked" not in problem.what for problem in problems)
    assert {problem.commit for problem in problems} == {"commits/run=run/lang=deu_Latn/00000.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_sha256": "0"}, "was traced under another record of run 'run'"),
        ({"files": []}, "does not name the tables that the run record promises"),
        ({"files": [{"path": "x"}]}, "the commit record is damaged"),
        ({"lang": "eng_Latn"}, "is the record of run, eng_Latn/00000"),
        ({"tokens": 7}, "tokens, the commit record says 7"),
    ],
)
def test_a_commit_record_that_is_wrong_is_named(store: Path, change: dict[str, Any], message: str) -> None:
    path = store / "commits/run=run/lang=deu_Latn/00000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    problems = verify(store).problems
    assert any(message in problem.what for problem in problems), problems


def test_a_damaged_run_record_is_named_with_the_shards_that_lack_it(store: Path) -> None:
    (store / "runs/run.json").write_text("{}")
    what = {problem.what for problem in verify(store).problems}
    assert any("the run record is damaged" in reason for reason in what)
    assert "the record of run 'run' is missing or damaged" in what


@given(
    st.sampled_from([1, 2, 255, 256, 257, 512]),
    st.integers(1, 9),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from(["bf16", "f16", "f32"]),
    st.booleans(),
)
@examples(40)
def test_whatever_is_written_verifies(
    tmp_path_factory: pytest.TempPathFactory,
    experts: int,
    top_k: int,
    lengths: list[int],
    precision: str,
    profiles: bool,  # noqa: FBT001  a drawn value
) -> None:
    top_k = min(top_k, experts)
    names = TABLE_NAMES if profiles else tuple(name for name in TABLE_NAMES if name != "profiles")
    record = make_record(languages=("eng_Latn",), num_experts=experts, top_k=top_k, tables=names)
    record.settings["weight_precision"] = precision
    rng = np.random.default_rng(len(lengths))
    total = sum(lengths)
    weights = rng.random((total, 3, top_k), dtype=np.float32) + 0.01
    shape = (len(lengths), 3, experts)
    shard = Shard(
        lang="eng_Latn",
        number=0,
        seqs=np.arange(len(lengths), dtype=np.int32),
        text_ids=[f"t{i}" for i in range(len(lengths))],
        lengths=np.array(lengths, dtype=np.int32),
        truncated=np.zeros(len(lengths), dtype=bool),
        token_ids=rng.integers(0, 9, total).astype(np.int32),
        experts=np.argsort(rng.random((total, 3, experts)), axis=-1)[..., :top_k].astype(
            np.uint8 if experts <= 256 else np.uint16
        ),
        weights=weights / weights.sum(-1, keepdims=True),
        profiles=rng.dirichlet(np.ones(experts), shape[:2]).astype(np.float32) if profiles else None,
    )
    path = tmp_path_factory.mktemp("any")
    StoreWriter(path, record).write(shard)
    assert verify(path).problems == []


def test_a_run_of_counts_verifies(tmp_path: Path) -> None:
    record = make_record(tables=("usage",))
    count = np.full((3, 8), 25, dtype=np.int64)
    StoreWriter(tmp_path, record).write_counts(Counts("eng_Latn", 0, 100, 0, count, count / 2.0))
    assert verify(tmp_path).problems == []
    assert [field.name for field in tables(8)["usage"].schema][:2] == ["layer", "expert"]


def test_the_command_names_bad_files_and_exits_with_one(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moetrace(["verify", str(store)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "shards, " in err
    assert "; no problems" in err
    path = data_file(store, "usage")
    path.write_bytes(path.read_bytes()[:-1])
    assert moetrace(["verify", str(store), "--quick"]) == 1
    assert capsys.readouterr().out.startswith("usage/run=run/lang=deu_Latn/00000.parquet: has ")
    assert moetrace(["verify", str(store), "--repair"]) == 1
    assert "taken out of the store; trace again as before" in capsys.readouterr().out
    assert moetrace(["verify", str(store)]) == 0
    assert moetrace(["verify", str(store / "nowhere")]) == 1
    assert "no such store" in capsys.readouterr().err


def test_a_shard_of_another_capture_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    world = make_world(seed=1, texts=2)
    shard = make_shard(world.record, "eng_Latn", 0, 0, world.texts["eng_Latn"])
    writer = StoreWriter(tmp_path, world.record)
    with pytest.raises(MoetraceError, match="the plan says"):
        writer.write(replace(shard, experts=shard.experts[:-1]))
    assert verify(tmp_path).orphans == []
