"""The head of the report: what the texts of the run are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.report.header import Header, header
from moetrace.analytics.report.source import Source
from tests.support.stores import make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.read.reader import Store

MADE_OF = ("Generated tokens", "Special tokens", "Duplicate texts", "Texts that all languages have")


def header_of(store: Store) -> Header:
    return header(store, Source(connect(store), store.run("run"), tuple(store.languages("run"))))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of three languages whose special token ids are known."""
    record = make_record()
    record = replace(record, model={**record.model, "special_token_ids": [0, 1, 2]})
    return write_world(tmp_path, make_world(5, record))


def test_facts_are_sums_and_ends_of_the_profile(store: Store) -> None:
    facts, profile = dict(header_of(store).facts), metrics.corpus_profile(connect(store))
    columns = ("generated_tokens", "special_tokens", "duplicate_texts")
    assert [facts[name] for name in MADE_OF[:3]] == [str(profile[column].sum()) for column in columns]
    assert int(facts["Special tokens"]) > 0
    assert facts["Texts that all languages have"] == str(profile["shared_texts"][0])
    (low, first), (high, last) = sorted(
        (row["fertility"], row["lang"]) for row in profile.to_dicts() if row["lang"] != "eng_Latn"
    )
    assert facts["Fertility"] == f"{low:.2f} ({first}) to {high:.2f} ({last}) tokens for one of eng_Latn"


def test_the_table_has_the_profile_of_each_language(store: Store) -> None:
    table = header_of(store).languages
    assert table.columns[5:] == (
        "fertility",
        "generated tokens",
        "special tokens",
        "truncated texts",
        "duplicate texts",
    )
    for row, found in zip(table.rows, metrics.corpus_profile(connect(store)).to_dicts(), strict=True):
        assert row[0] == found["lang"]
        assert row[5:] == (f"{found['fertility']:.2f}", "0", str(found["special_tokens"]), "0", "0")


def test_what_is_not_known_is_unknown_and_not_0(tmp_path: Path) -> None:
    languages = ("eng_Latn", "swh_Latn")
    record = make_record(tables=("usage",), languages=languages)
    counts = dict.fromkeys(languages, np.full((3, 8), 5))
    found = header_of(write_counts(tmp_path, record, counts, dict.fromkeys(languages, 20)))
    facts = dict(found.facts)
    assert [facts[name] for name in MADE_OF] == ["unknown"] * 4
    assert "Fertility" not in facts
    assert {row[5:] for row in found.languages.rows} == {("unknown",) * 5}
