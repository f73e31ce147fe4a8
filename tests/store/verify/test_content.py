"""`verify` finds numbers that contradict each other, and nothing in what the writer wrote."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.schema import TABLE_NAMES, tables
from moetrace.store.shard.counts import Counts
from moetrace.store.shard.shard import Shard
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.examples import examples
from tests.support.stores import make_record
from tests.support.tampering import column, put, rewritten

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa


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
        ("routes", lambda rows: rows.slice(0, len(rows) - 3), "rows; "),
        ("usage", partial(column, "count", lambda v: np.roll(v, 1)), "count of the roll-up is not what the routes add"),
        ("usage", partial(column, "count", put(0, 10_000)), "counts of a layer do not sum to"),
        ("usage", partial(column, "weight_sum", put(0, 7.5)), "weight_sum of the roll-up"),
        ("usage", partial(column, "sequence_share_sum", put(0, 7.5)), "sequence_share_sum of the roll-up"),
        ("usage", partial(column, "count_squared_sum", put(0, 7.5)), "count_squared_sum of the roll-up is not what"),
        (
            "usage",
            partial(column, "count_decisions_sum", lambda v: np.roll(v, 1)),
            "count_decisions_sum of the roll-up is not what",
        ),
        ("usage", partial(column, "count_decisions_sum", put(0, np.nan)), "count_decisions_sum of a layer does not"),
        ("usage", lambda rows: rows.drop_columns(["count_squared_sum"]), "has columns layer"),
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
    weights = rng.random((3, top_k, total), dtype=np.float32) + 0.01
    shape = (3, len(lengths), experts)
    shard = Shard(
        lang="eng_Latn",
        number=0,
        seqs=np.arange(len(lengths), dtype=np.int32),
        text_ids=[f"t{i}" for i in range(len(lengths))],
        lengths=np.array(lengths, dtype=np.int32),
        truncated=np.zeros(len(lengths), dtype=bool),
        token_ids=rng.integers(0, 9, total).astype(np.int32),
        experts=np.argsort(rng.random((3, experts, total)), axis=1)[:, :top_k].astype(expert_dtype(experts)),
        weights=weights / weights.sum(axis=1, keepdims=True),
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
