"""Counts of a file a language come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from tests.support.examples import examples
from tests.support.imported import check_overlaps_of_mgsm
from tests.support.published import (
    LAYERS,
    import_files,
    write_usage,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_published_counts_come_back(shared_data: Path, mgsm: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder = shared_data / "qwen3-30b-a3b-mgsm"
    import_files("usage-json", tmp_path, *(f"{lang}={folder}/mgsm_{lang}.json" for lang in mgsm))
    expected = [
        (lang, int(layer), int(expert), numbers["activation_tokens"], numbers["gate_values_sum"])
        for lang, layers in mgsm.items()
        for layer, experts in layers.items()
        for expert, numbers in experts.items()
        if expert != "total_tokens"
    ]
    db = connect(tmp_path)
    assert db.sql("select lang, layer, expert, count, weight_sum from usage order by all").fetchall() == sorted(
        expected
    )
    tokens = {lang: layers["0"]["total_tokens"] for lang, layers in mgsm.items()}
    assert dict(db.sql("select lang, tokens from languages").fetchall()) == tokens
    record = Store(tmp_path).run()
    assert (record.top_k, record.num_experts, len(record.moe_layers), record.corpus["pivot"]) == (8, 128, 48, "en")
    assert verify(tmp_path).problems == []
    check_overlaps_of_mgsm(tmp_path)


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 4), st.integers(4, 300))
@examples(15)
def test_any_counts_come_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tokens: int, top_k: int, experts: int
) -> None:
    folder = tmp_path_factory.mktemp("counts")
    rng = np.random.default_rng(seed)
    chosen = [[rng.choice(experts, top_k, replace=False) for _ in range(tokens)] for _ in LAYERS]
    count = np.array([np.bincount(np.ravel(layer), minlength=experts) for layer in chosen])
    file = write_usage(folder / "counts.json", count, tokens)
    import_files("usage-json", folder / "store", f"a={file}", experts=experts)
    found = connect(folder / "store").sql("select count, weight_sum from usage order by layer, expert").fetchall()
    assert found == [(number, number / 4) for number in count.ravel().tolist()]
    assert Store(folder / "store").run().top_k == top_k
    assert verify(folder / "store").problems == []
