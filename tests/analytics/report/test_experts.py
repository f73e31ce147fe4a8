"""What the page's panel says of an expert, against counts added up by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.report.experts import FIRST, expert_frames
from moetrace.analytics.report.source import Source
from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from pathlib import Path

CODES = tuple(f"l{number}" for number in range(9))
TOKENS, LAYERS, EXPERTS = 40, (1, 2, 5), 8


@pytest.fixture(scope="module")
def counts() -> dict[str, np.ndarray]:
    """Counts of a token sent to two experts, in which the last expert is used by none."""
    rng = np.random.default_rng(5)
    made = {}
    for lang in CODES:
        count = np.zeros((len(LAYERS), EXPERTS), dtype=int)
        for layer in range(len(LAYERS)):
            taste = rng.random(EXPERTS - 1)
            for _ in range(TOKENS):
                count[layer, rng.choice(EXPERTS - 1, 2, replace=False, p=taste / taste.sum())] += 1
        made[lang] = count
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, counts: dict[str, np.ndarray]) -> Source:
    record = make_record(tables=("usage",), languages=CODES, moe_layers=LAYERS, num_experts=EXPERTS)
    store = write_counts(tmp_path_factory.mktemp("experts"), record, counts, dict.fromkeys(CODES, TOKENS))
    return Source(connect(store), store.run("run"), CODES)


def ranks(values: np.ndarray) -> np.ndarray:
    """Return how many are larger, and one: the rank of each where equal ones share it."""
    return 1 + (values[None, :] > values[:, None] + 1e-11).sum(axis=1)


def test_use_and_ranks_are_those_of_the_counts(source: Source, counts: dict[str, np.ndarray]) -> None:
    frame = expert_frames(source, [])["experts"]
    used = np.stack([counts[lang] for lang in CODES]).reshape(len(CODES), -1) / TOKENS
    mean = used.mean(axis=0)
    assert frame["frequency"].to_numpy() == pytest.approx(mean)
    assert frame["languages"].to_list() == (used > 0).sum(axis=0).tolist()
    assert frame["frequency_rank"].to_list() == ranks(mean).tolist()
    overlap = np.where(mean > 0, 1 / (1 + used.std(axis=0) / np.where(mean > 0, mean, 1)), 0)
    assert frame["overlap"].to_numpy() == pytest.approx(overlap)
    assert frame["overlap_rank"].to_list() == ranks(overlap * (1 + 10 * mean)).tolist()


def test_an_experts_languages_are_the_first_by_each_measure_and_the_targets(
    source: Source, counts: dict[str, np.ndarray]
) -> None:
    frame = expert_frames(source, ["l3", "unknown"])["expert_languages"]
    used = np.stack([counts[lang] for lang in CODES]) / TOKENS
    mean = used.mean(axis=0)
    specific = used / np.where(mean > 0, mean, 1)
    score = specific * (1 + 10 * used)
    for (layer, expert), rows in frame.group_by("layer", "expert"):
        at = (LAYERS.index(layer), expert)
        ranked = sorted(range(len(CODES)), key=lambda number: (-specific[number][at], CODES[number]))
        listed = set(rows["lang"])
        flat = LAYERS.index(layer) * EXPERTS + expert
        ranked_by = {lang: ranks(score[number].ravel())[flat] for number, lang in enumerate(CODES)}
        best = sorted(CODES, key=lambda lang: (ranked_by[lang], lang))[:FIRST]
        assert {lang for lang in best if used[CODES.index(lang)][at] > 0} <= listed
        own = [CODES[number] for number in ranked[:FIRST] if used[number][at] > 0]
        assert set(own) <= listed
        assert "l3" in listed
        for row in rows.to_dicts():
            number = CODES.index(row["lang"])
            assert row["specificity"] == pytest.approx(specific[number][at])
            assert row["score_rank"] == ranks(score[number].ravel())[flat]
            assert row["frequency_rank"] == ranks(used[number].ravel())[flat]
    unused = frame.filter(expert=EXPERTS - 1)
    assert set(unused["lang"]) == {"l3"}


def test_a_run_without_counts_has_no_experts_to_tell_of(tmp_path: Path) -> None:
    record = make_record(tables=("sequences",))
    source = Source(connect(write_counts(tmp_path, make_record(tables=("usage",)), {}, {})), record, CODES)
    assert expert_frames(source, []) == {}
