"""What the texts of each language are made of, against the reference, and what is not known of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.store.write.writer import StoreWriter
from tests.reference.metrics.corpus import corpus_profile
from tests.support.stores import World, make_record, make_shard, make_world, write_counts
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import duckdb

    from moetrace.store.format.records import RunRecord


def record_of(**corpus: Any) -> RunRecord:
    record = make_record()
    return replace(record, model={**record.model, "special_token_ids": [0, 7, 49]}, corpus={**record.corpus, **corpus})


def repeated_texts(world: World) -> World:
    """Return the world with every third text a copy of the first, and every fourth one with its ids reversed."""
    texts = {}
    for lang, found in world.texts.items():
        first = found[0]
        copied = [replace(first, text_id=text.text_id) if index % 3 == 2 else text for index, text in enumerate(found)]
        texts[lang] = [
            replace(first, text_id=text.text_id, token_ids=first.token_ids[::-1]) if index % 4 == 3 else text
            for index, text in enumerate(copied)
        ]
    return World(world.record, texts)


def written(
    path: Path, world: World, generated: Mapping[tuple[str, str], int], truncated: set[tuple[str, str]], size: int
) -> duckdb.DuckDBPyConnection:
    with StoreWriter(path, world.record) as writer:
        for lang, texts in world.texts.items():
            for number, start in enumerate(range(0, len(texts), size)):
                some = texts[start : start + size]
                shard = make_shard(world.record, lang, number, start, some)
                made = np.array([generated.get((lang, text.text_id), 0) for text in some], dtype=np.int32)
                cut = np.array([(lang, text.text_id) in truncated for text in some])
                writer.write(replace(shard, generated=made, truncated=cut))
    return connect(path)


@pytest.mark.parametrize("corpus", [{}, {"parallel": False}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_corpus_is_profiled_as_by_the_reference(seed: int, corpus: dict[str, Any], tmp_path: Path) -> None:
    world = repeated_texts(make_world(seed, record_of(**corpus), texts=20))
    rng = np.random.default_rng(seed)
    names = {(lang, text.text_id): len(text.token_ids) for lang, texts in world.texts.items() for text in texts}
    generated = {name: int(rng.integers(0, length)) for name, length in names.items() if rng.random() < 0.3}
    truncated = {name for name in names if rng.random() < 0.2}
    expected = sorted(corpus_profile(world, generated, truncated), key=lambda row: row["lang"])
    assert any(row["duplicate_texts"] > 2 for row in expected)
    for size in (3, 100):
        found = metrics.corpus_profile(written(tmp_path / str(size), world, generated, truncated, size)).to_dicts()
        assert [row.keys() for row in found] == [row.keys() for row in expected]
        for row, other in zip(found, expected, strict=True):
            assert row == pytest.approx(other)


def test_texts_that_only_the_model_made_different_are_duplicates(tmp_path: Path) -> None:
    world = make_world(4, record_of(languages=["a"], pivot="a"), texts=2)
    (first, *_) = world.texts["a"]
    longer = [
        replace(
            first,
            text_id=name,
            token_ids=np.append(first.token_ids, own).astype(np.int32),
            experts=np.append(first.experts, first.experts[:1], axis=0),
            weights=np.append(first.weights, first.weights[:1], axis=0),
        )
        for name, own in (("x", 11), ("y", 12))
    ]
    opened = written(tmp_path, World(world.record, {"a": longer}), {("a", "x"): 1, ("a", "y"): 1}, set(), 9)
    assert metrics.corpus_profile(opened)["duplicate_texts"].item() == 2
    apart = written(tmp_path / "apart", World(world.record, {"a": longer}), {}, set(), 9)
    assert metrics.corpus_profile(apart)["duplicate_texts"].item() == 0


def test_the_pivot_language_takes_one_token_where_it_takes_one(three_languages: duckdb.DuckDBPyConnection) -> None:
    found = metrics.corpus_profile(three_languages)
    assert found.filter(lang="eng_Latn")["fertility"].item() == 1
    assert found["special_tokens"].null_count() == len(found)  # the record does not say which ids are special


def test_what_a_run_lacks_is_null_and_not_0(tmp_path: Path) -> None:
    record = make_record("counts", ["a", "b"], moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    write_counts(tmp_path, record, {"a": np.array([[4, 6]]), "b": np.array([[5, 5]])}, {"a": 10, "b": 10})
    opened = open_worlds(tmp_path, [make_world(5, make_record("traced", ["a", "b"]))])
    rows = metrics.corpus_profile(opened).to_dicts()
    assert len(rows) == 4
    for row in rows:
        known = {name for name, value in row.items() if value is not None}
        without_special = set(row) - {"special_tokens"}
        assert known == ({"run", "lang", "tokens"} if row["run"] == "counts" else without_special)


def test_unknown_token_ids_leave_duplicates_and_special_tokens_unknown(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(6, record_of())])
    opened.execute(
        "create or replace view tokens as select * replace (if(lang = 'deu_Latn', null, token_id) as token_id) "
        "from files.tokens"
    )
    for row in metrics.corpus_profile(opened).to_dicts():
        unknown = {name for name, value in row.items() if value is None}
        assert unknown == ({"special_tokens", "duplicate_texts"} if row["lang"] == "deu_Latn" else set())
