"""Tasks as their publishers lay them out, from local files of the same columns."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.evaluation.tasks import Item, open_task

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, *rows: dict[str, Any], lang: str = "eng_Latn") -> str:
    folder.mkdir(exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / f"{lang}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder)


def items(folder: Path, *rows: dict[str, Any], **options: Any) -> tuple[str, list[Item]]:
    task = open_task(written(folder, *rows), **options)
    return task.kind, list(task.items("eng_Latn"))


@pytest.mark.parametrize(("answer", "place"), [(0, 0), (1, 1), ("B", 1), ("b", 1), ("1", 1), ("dog", 1), ("cat", 0)])
def test_an_answer_is_an_index_a_letter_or_a_choice(tmp_path: Path, answer: Any, place: int) -> None:
    row = {"id": "x", "question": "Who barks?", "choices": ["cat", "dog"], "answer": answer}
    assert items(tmp_path, row) == ("choice", [Item("x", "Who barks?", ("cat", "dog"), place)])


def test_belebele(tmp_path: Path) -> None:
    row = {
        "link": "l", "question_number": 2, "flores_passage": "It rained.", "question": "What fell?",
        "mc_answer1": "snow", "mc_answer2": "rain", "mc_answer3": "stones", "mc_answer4": "nothing",
        "correct_answer_num": "2", "dialect": "eng_Latn", "ds": "2023-05-03",
    }  # fmt: skip
    choices = ("snow", "rain", "stones", "nothing")
    assert items(tmp_path, row) == ("choice", [Item("l#2", "It rained.\nWhat fell?", choices, 1)])
    shown = items(tmp_path, row, text_template="Q: {question}\nA:", id_template="{question_number}")
    assert shown == ("choice", [Item("2", "Q: What fell?\nA:", choices, 1)])


def test_global_mmlu(tmp_path: Path) -> None:
    row = {
        "sample_id": "anatomy/test/1", "subject": "anatomy", "question": "How many?", "option_a": "1", "option_b": "2",
        "option_c": "3", "option_d": "4", "answer": "C", "cultural_sensitivity_label": "CA",
    }  # fmt: skip
    assert items(tmp_path, row) == ("choice", [Item("anatomy/test/1", "How many?", ("1", "2", "3", "4"), 2)])


def test_multiblimp_has_nothing_before_its_sentences(tmp_path: Path) -> None:
    row = {"sen": "They sing.", "wrong_sen": "They sings.", "phenomenon": "SV-#"}
    assert items(tmp_path, row, row) == (
        "choice",
        [Item(number, "", ("They sing.", "They sings."), 0) for number in ("1", "2")],
    )


def test_mgsm(tmp_path: Path) -> None:
    row = {"question": "Two and two?", "answer": None, "answer_number": 4, "equation_solution": None}
    assert items(tmp_path, row) == ("number", [Item("1", "Two and two?", number=Decimal(4))])


def test_texts_alone_are_for_perplexity(tmp_path: Path) -> None:
    assert items(tmp_path, {"id": 7, "text": "Rain fell."}) == ("perplexity", [Item("7", "Rain fell.")])
    assert items(tmp_path, {"text_id": "a", "text": "Rain."}) == ("perplexity", [Item("a", "Rain.")])
    assert items(tmp_path, {"text": "Rain."}, {"text": "Snow."})[1] == [Item("1", "Rain."), Item("2", "Snow.")]


def test_a_long_table_and_a_wide_one_are_tasks_too(tmp_path: Path) -> None:
    long = tmp_path / "long.jsonl"
    rows = [{"lang": lang, "question": "?", "choices": ["a", "b"], "answer": 0} for lang in ("deu_Latn", "eng_Latn")]
    long.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = open_task(str(long))
    assert (task.kind, task.corpus.languages) == ("choice", ("deu_Latn", "eng_Latn"))
    assert [item.answer for item in task.items("deu_Latn")] == [0]
    wide = tmp_path / "wide.csv"
    wide.write_text("id,deu_Latn,eng_Latn\n1,Regen,Rain\n2,Schnee,Snow\n")
    task = open_task(str(wide))
    assert (task.kind, [item.text for item in task.items("deu_Latn")]) == ("perplexity", ["Regen", "Schnee"])


def test_some_languages_and_some_items(tmp_path: Path) -> None:
    for lang in ("deu_Latn", "eng_Latn", "swh_Latn"):
        written(tmp_path, *({"id": n, "text": f"{lang} {n}"} for n in range(9)), lang=lang)
    task = open_task(str(tmp_path)).chosen(("swh_Latn", "eng_Latn"), limit=2)
    assert task.corpus.languages == ("eng_Latn", "swh_Latn")
    assert [item.id for item in task.items("swh_Latn")] == ["0", "1"]
    sampled = open_task(str(tmp_path)).chosen(sample=4, sample_seed=1)
    drawn = {lang: [item.id for item in sampled.items(lang)] for lang in sampled.corpus.languages}
    assert len(drawn["deu_Latn"]) == 4
    assert len({tuple(ids) for ids in drawn.values()}) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a"], "answer": 0}, "row 1: choices must be a list of two texts or more"),
        ({"choices": ["a", " "], "answer": 0}, "row 1: choices must be a list of two texts or more"),
        ({"choices": "ab", "answer": 0}, "row 1: choices must be a list of two texts or more"),
        ({"choices": ["a", "b"], "answer": 2}, "row 1: answer 2 is none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": -1}, "row 1: answer -1 is none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": "E"}, "row 1: answer 'E' is none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": "ß"}, "row 1: answer 'ß' is none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": "9" * 5000}, "row 1: answer '9999"),
        ({"choices": ["a", "b"], "answer": float("nan")}, "row 1: answer nan is none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": True}, "row 1: answer True is none of the 2 choices"),
        ({"answer_number": "many"}, "row 1: answer_number many is no number"),
        ({"sen": "", "wrong_sen": "x"}, "row 1: column 'sen' is empty"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(MoetraceError, match=message):
        items(tmp_path, {"question": "?", **row})


def test_what_has_no_question_and_items_of_two_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MoetraceError, match="row 1 has nothing to ask"):
        items(tmp_path, {"id": "x", "choices": ["a", "b"], "answer": 0})
    written(tmp_path, {"id": "1", "question": "?", "choices": ["a", "b"], "answer": 0}, lang="deu_Latn")
    task = open_task(written(tmp_path, {"id": "2", "text": "Rain fell."}))
    assert [item.answer for item in task.items("deu_Latn")] == [0]
    with pytest.raises(MoetraceError, match="item '2' of eng_Latn is not of kind choice"):
        list(task.items("eng_Latn"))
