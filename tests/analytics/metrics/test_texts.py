"""What looks at single texts and tokens: similarity to the pivot language, routing consistency, what a corpus is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics import metrics
from moetrace.analytics.database.query import missing_inputs
from moetrace.analytics.metrics import texts, translations
from moetrace.store.errors import MoetraceError
from tests.benchmarks.bench_analytics import profiled
from tests.reference.agreement import close, keyed
from tests.reference.metrics.texts import derangements_of
from tests.support.stores import World, make_record, make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from tests.support.stores import Text


def test_texts_whose_tokens_all_go_the_same_way_are_consistent(tmp_path: Path) -> None:
    world = make_world(16)
    same = {
        lang: [replace(text, experts=np.repeat(text.experts[:1], len(text.experts), axis=0)) for text in texts]
        for lang, texts in world.texts.items()
    }
    found = metrics.routing_consistency(open_worlds(tmp_path, [World(world.record, same)]))
    assert set(found["consistency"]) == {1.0}


def test_routing_consistency_is_the_same_however_little_fits_in_memory(
    three_languages: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = keyed(three_languages.sql("from routing_consistency").pl().to_dicts())
    for memory in (texts._TOKEN_LAYERS, 1):
        monkeypatch.setattr(texts, "_TOKEN_LAYERS", memory)
        assert close(at_once, keyed(metrics.routing_consistency(three_languages).to_dicts()), 1e-12)


@pytest.mark.parametrize("derangements", [0, 3])
def test_pivot_similarity_is_the_views_however_little_fits_in_memory(
    derangements: int, three_languages: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = keyed(three_languages.sql(f"from pivot_similarity(derangements := {derangements})").pl().to_dicts())
    assert len(at_once) == 6
    for held, read, compared in ((1 << 24, 1 << 21, 1 << 10), (1, 1, 1), (100, 30, 3)):
        monkeypatch.setattr(translations, "HELD_CELLS", held)
        monkeypatch.setattr(translations, "READ_CELLS", read)
        monkeypatch.setattr(translations, "TEXTS_AT_ONCE", compared)
        found = metrics.pivot_similarity(three_languages, derangements=derangements)
        assert close(at_once, keyed(found.to_dicts()), 1e-12)


def test_pivot_similarity_of_several_blocks_is_the_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_worlds(tmp_path, [make_world(21, texts=60), make_world(22, make_record("other"), texts=9)])
    at_once = keyed(opened.sql("from pivot_similarity(derangements := 9)").pl().to_dicts())
    for compared in (1 << 10, 11):
        monkeypatch.setattr(translations, "TEXTS_AT_ONCE", compared)
        assert close(at_once, keyed(metrics.pivot_similarity(opened, derangements=9).to_dicts()), 1e-12)
    asked = {"pivot_lang": "deu_Latn", "languages": ["swh_Latn"], "layers": [5, 1]}
    view = opened.sql(
        "from pivot_similarity(pivot_lang := 'deu_Latn', languages := ['swh_Latn'], layers := [5, 1])"
    ).pl()
    found = metrics.pivot_similarity(opened, **asked)
    assert len(found) == 4
    assert found.schema == view.schema
    assert close(keyed(view.to_dicts()), keyed(found.to_dicts()), 1e-12)


# Not ru_maxrss, in which a process has that of the one that started it.
GROWTH = """
import sys
from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

store = connect(sys.argv[1])
metrics.pivot_similarity(store, layers=[0])
before = peak()
metrics.pivot_similarity(store)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_pivot_similarity_holds_little_more_than_the_profiles_it_compares(tmp_path: Path) -> None:
    store = profiled(tmp_path / "store", 20_000, layers=8, experts=64)  # 80 MiB of profiles
    run = subprocess.run([sys.executable, "-c", GROWTH, str(store)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 250 * 1024  # KiB; the view takes more than 500


def with_profiles(world: World, profile: dict[str, np.ndarray]) -> World:
    """Give every text of a text id the same profile, whatever the language."""
    same: dict[str, list[Text]] = {
        lang: [replace(text, profile=profile[text.text_id]) for text in found] for lang, found in world.texts.items()
    }
    return World(world.record, same)


def test_what_only_the_language_decides_has_no_excess_and_what_the_sentence_decides_has(tmp_path: Path) -> None:
    world = make_world(17, texts=30)
    of_texts = {text.text_id: text.profile for text in world.texts["eng_Latn"]}
    world = World(
        world.record,
        {lang: [text for text in found if text.text_id in of_texts] for lang, found in world.texts.items()},
    )
    one = next(iter(of_texts.values()))
    alike = metrics.pivot_similarity(open_worlds(tmp_path / "a", [with_profiles(world, dict.fromkeys(of_texts, one))]))
    assert alike["similarity"].to_list() == alike["mispaired"].to_list() == [1.0] * 6
    assert set(alike["excess"]) == {0.0}
    told = metrics.pivot_similarity(open_worlds(tmp_path / "b", [with_profiles(world, of_texts)]))
    assert set(told["similarity"]) == {1.0}
    assert min(told["excess"]) > 0.01


def test_a_derangement_leaves_no_text_in_its_place_and_takes_each_once_and_keeps_lengths() -> None:
    rng = np.random.default_rng(0)
    for number in (2, 5, 7, 8, 15, 16, 100):
        tokens = {f"text-{index}": int(rng.integers(1, 50)) for index in range(number)}
        ordered = sorted(tokens.values())
        for derangement in derangements_of(tokens, 3):
            assert sorted(derangement) == sorted(derangement.values())
            assert all(text != other for text, other in derangement.items())
            for text, other in derangement.items():
                places = [
                    [place for place, length in enumerate(ordered) if length == tokens[of]] for of in (text, other)
                ]
                assert min(abs(a - b) for a in places[0] for b in places[1]) < 15
    assert [len(found) for found in derangements_of({"a": 1, "b": 1}, 3)] == [2, 0, 0]
    assert derangements_of({"a": 1}, 2) == [{}, {}]


def test_texts_that_are_no_translations_of_each_other_are_not_compared(tmp_path: Path) -> None:
    record = make_record()
    record = replace(record, corpus={**record.corpus, "parallel": False})
    alone = open_worlds(tmp_path / "alone", [make_world(18, record)])
    assert alone.sql("from pivot_similarity").fetchall() == []
    reason = "whose text ids are not parallel: the same id in two languages is not the same text"
    assert missing_inputs(alone, "from pivot_similarity") == [f"pivot_similarity has nothing of run 'run', {reason}"]
    with pytest.raises(MoetraceError, match=reason):
        metrics.pivot_similarity(alone)
    beside = open_worlds(tmp_path / "beside", [make_world(18, record), make_world(19, make_record("other"))])
    assert set(metrics.pivot_similarity(beside)["run"]) == {"other"}


def test_fewer_than_no_derangements_are_refused(three_languages: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(MoetraceError, match="derangements = -1: 0 is none"):
        metrics.pivot_similarity(three_languages, derangements=-1)
