"""The benchmark that needs a GPU: its model is the one that it names, its texts are what it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.format.layout import SHARD_TOKENS
from moetrace.tracer.model.facts import read_facts
from tests.benchmarks.bench_gpu import QWEN3_30B_A3B, Figures, Work, random_texts, table_rows

if TYPE_CHECKING:
    from pathlib import Path


def test_its_model_has_the_parameters_that_qwen3_30b_a3b_is_named_after(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_30B_A3B))
    facts = read_facts(str(tmp_path))
    assert (len(facts.moe_layers), facts.num_experts, facts.top_k) == (48, 128, 8)
    shape = QWEN3_30B_A3B
    queries = shape["hidden_size"] * shape["head_dim"] * shape["num_attention_heads"]
    keys = shape["hidden_size"] * shape["head_dim"] * shape["num_key_value_heads"]
    others = 2 * shape["vocab_size"] * shape["hidden_size"]
    others += 48 * (2 * queries + 2 * keys + 128 * shape["hidden_size"])
    whole = others + 48 * 128 * facts.parameters_per_expert
    active = others + 48 * 8 * facts.parameters_per_expert
    assert round(whole / 1e9, 1) == 30.5
    assert round(active / 1e9, 1) == 3.4  # 3.3, its card says


def test_its_texts_are_as_many_tokens_as_were_asked_for_and_a_shard_a_language() -> None:
    texts = random_texts(200_000, 512)
    lengths = np.array([len(ids) for rows in texts.values() for ids in rows])
    assert lengths.sum() == 200_000
    assert lengths.max() < 2048
    assert 300 < np.median(lengths) < 500
    sizes = [sum(map(len, rows)) for rows in texts.values()]
    assert all(SHARD_TOKENS <= size < SHARD_TOKENS + 2048 for size in sizes[:-1])
    assert max(max(ids) for rows in texts.values() for ids in rows) < 512
    assert random_texts(200_000, 512) == texts


def test_a_row_has_the_speed_and_its_share_of_the_untraced() -> None:
    work = Work("decoding", {"l00": [[2] * 10] * 4}, 5, 3)  # 4 x (10 + 5 - 1) tokens are run
    figures = {"untraced": Figures([1.0, 2.0, 4.0]), "traced": Figures([4.0, 5.0, 2.0], 1.5, 2.0)}
    assert table_rows("eager", work, figures) == [
        ["eager", "decoding", "untraced", "28", "1.000", "1.500", "-", "-"],
        ["eager", "decoding", "traced", "14", "0.500", "0.750", "1.50", "2.00"],
    ]
