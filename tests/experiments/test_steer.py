"""The steering experiment's task and tables: what is asked, of whom, and what is said of it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.tracer.bundled.training_texts import PIVOT, Text, is_held_out, read_corpora
from tests.experiments.figures.steer import rows_of
from tests.experiments.steer.experts import LAMBDAS, interventions
from tests.experiments.steer.tables import experts_table, language_table, overall_table, tables
from tests.experiments.steer.task import CHOICES, LANGUAGES, fold_of, items, parallel, write_tasks
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def held_out(count: int = 60) -> list[Text]:
    return [
        Text("ui-strings", lang, f"id{n}", "OK" if n == 0 else f"{lang} text {n}")
        for lang in (PIVOT, *LANGUAGES)
        for n in range(count)
    ]


def test_a_text_that_is_the_english_one_is_not_asked() -> None:
    texts = parallel(held_out())
    assert set(texts) == {PIVOT, *LANGUAGES}
    assert len(texts[PIVOT]) == 60
    assert all(len(texts[lang]) == 59 for lang in LANGUAGES)


def test_an_item_has_the_right_text_once_among_others_of_its_fold() -> None:
    texts = parallel(held_out())
    for fold in (0, 1):
        found = items(texts["deu_Latn"], texts[PIVOT], fold, "deu_Latn")
        assert {fold_of(str(item["id"])) for item in found} == {fold}
        for item in found:
            choices: Any = item["choices"]
            right = texts["deu_Latn"][str(item["id"])]
            assert len(set(choices)) == CHOICES
            assert choices.index(right) == item["answer"]
            ids = [name for name, text in texts["deu_Latn"].items() if text in choices]
            assert {fold_of(name) for name in ids} == {fold}
        places = Counter(item["answer"] for item in found)
        assert len(places) == CHOICES
        assert found == items(texts["deu_Latn"], texts[PIVOT], fold, "deu_Latn")
    together = [item["id"] for fold in (0, 1) for item in items(texts["deu_Latn"], texts[PIVOT], fold, "deu_Latn")]
    assert sorted(map(str, together)) == sorted(texts["deu_Latn"])


def test_english_is_read_after_another_language_and_alone(tmp_path: Path) -> None:
    texts = parallel(held_out())
    write_tasks(texts, tmp_path)
    asked, alone = (
        [json.loads(line) for line in (tmp_path / f"english-{name}-0" / f"{PIVOT}.jsonl").read_text().splitlines()]
        for name in ("task", "alone")
    )
    assert [row["id"] for row in asked] == [row["id"] for row in alone]
    for task, text in zip(asked, alone, strict=True):
        english = texts[PIVOT][task["id"]]
        assert text["text"] == f"<|endoftext|>{english}"
        assert task["text"].endswith(f" = {english}")
    languages = {lang for row in asked for lang in LANGUAGES if f"<|endoftext|>{lang}" in row["text"]}
    assert languages == set(LANGUAGES)


def test_only_held_out_texts_are_asked(shared_data: Path) -> None:
    from moetrace.tracer.bundled import CORPUS

    rows = read_corpora(shared_data / "ui-strings", shared_data / "udhr", CORPUS)
    texts = parallel(row for row in rows if is_held_out(row))
    trained = {(row.lang, f"{row.corpus}:{row.id}") for row in rows if not is_held_out(row)}
    assert not trained & {(lang, name) for lang, found in texts.items() for name in found}
    assert all(len(found) > 90 for found in texts.values())


def test_every_strength_is_done_to_the_same_experts() -> None:
    class Chosen:
        layer, expert = 3, 7

    found = interventions([Chosen()])  # type: ignore[list-item]
    assert [one.name for one in found] == ["suppress", *(f"soft-{value:g}" for value in LAMBDAS), "promote"]
    assert {frozenset(one.cells) for one in found} == {frozenset({(3, 7)})}


def test_the_docs_have_the_tables_of_the_results_that_are_kept() -> None:
    results = json.loads((ROOT / "docs" / "findings" / "steer.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    for table in (experts_table(results), overall_table(results), language_table(results)):
        assert table in page
        assert table in tables(results)


def test_the_figure_has_each_arm_beside_its_controls() -> None:
    results = json.loads((ROOT / "docs" / "findings" / "steer.json").read_text(encoding="utf-8"))
    rows = rows_of(results)
    counts = Counter((row["panel"], row["series"]) for row in rows)
    assert set(counts.values()) == {2 + len(LAMBDAS)}
    assert len(counts) == 2 * 4
    values = {(row["arm"], row["against"]): row for row in results["comparisons"] if row["lang"] == "(mean)"
              and row["metric"] == "accuracy"}  # fmt: skip
    for row in rows:
        if row["panel"] == "accuracy" and row["series"] == "random experts":
            apart = values[row["arm"], "baseline"]["difference"] - values[row["arm"], "random"]["difference"]
            assert row["difference"] == pytest.approx(apart, abs=2e-4)
