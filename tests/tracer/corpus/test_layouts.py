"""FLORES+, Belebele and FLORES read as their publishers lay them out, from local datasets of the same schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError, UnknownNameError
from moetrace.tracer.corpus.corpus import open_corpus

if TYPE_CHECKING:
    from pathlib import Path

LANGUAGES = {"eng_Latn": "English", "swh_Latn": "Kiswahili", "zho_Hans": "中文"}


def flores_plus_row(lang: str, number: int, split: str) -> dict[str, Any]:
    iso_639_3, iso_15924 = lang.split("_")
    return {
        "id": number,
        "iso_639_3": iso_639_3,
        "iso_15924": iso_15924,
        "glottocode": "stan1293",
        "text": f"{LANGUAGES[lang]} {split} {number}",
        "url": "https://en.wikinews.org/wiki/x",
        "domain": "wikinews",
        "topic": "health",
        "has_image": "yes",
        "has_hyperlink": "no",
        "last_updated": "1.0",
    }


def belebele_row(lang: str, passage: int, question: int) -> dict[str, Any]:
    return {
        "link": f"https://en.wikibooks.org/wiki/{passage}",
        "question_number": question,
        "flores_passage": f"{LANGUAGES[lang]} passage {passage}.",
        "question": f"{LANGUAGES[lang]} question {question}?",
        **{f"mc_answer{n}": str(n) for n in range(1, 5)},
        "correct_answer_num": "2",
        "dialect": lang,
        "ds": "2023-05-03",
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def dataset(folder: Path, configs: dict[str, dict[str, str]]) -> str:
    """Write the card that makes a folder a dataset: config to split to file."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, file in splits.items():
            lines += [f"  - split: {split}", f"    path: {file}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return f"hf:{folder}"


@pytest.fixture
def flores_plus(tmp_path: Path) -> str:
    splits = ("dev", "devtest")
    for lang in LANGUAGES:
        for split in splits:
            write(tmp_path / split / f"{lang}.jsonl", [flores_plus_row(lang, n, split) for n in range(3)])
    configs = {lang: {split: f"{split}/{lang}.jsonl" for split in splits} for lang in LANGUAGES}
    return dataset(tmp_path, {"default": {split: f"{split}/*.jsonl" for split in splits}, **configs})


@pytest.fixture
def belebele(tmp_path: Path) -> str:
    for lang in LANGUAGES:
        write(tmp_path / "data" / f"{lang}.jsonl", [belebele_row(lang, p, q) for p in (1, 2) for q in (1, 2)])
    return dataset(tmp_path, {lang: {"test": f"data/{lang}.jsonl"} for lang in LANGUAGES})


def read(spec: str, **templates: str) -> dict[str, dict[str, str]]:
    corpus = open_corpus(spec, **templates)
    return {lang: {text.id: text.text for text in corpus.read(lang)} for lang in corpus.languages}


def test_every_config_of_flores_plus_is_a_language(flores_plus: str) -> None:
    expected = {lang: {str(n): f"{name} devtest {n}" for n in range(3)} for lang, name in LANGUAGES.items()}
    assert read(f"{flores_plus}::devtest") == expected
    assert next(open_corpus(flores_plus).read("eng_Latn")).text == "English dev 0"


def test_one_config_of_flores_plus_is_one_language(flores_plus: str) -> None:
    assert read(f"{flores_plus}:swh_Latn:dev") == {"swh_Latn": {str(n): f"Kiswahili dev {n}" for n in range(3)}}


def test_all_of_flores_plus_in_one_table_is_told_apart_by_its_iso_columns(flores_plus: str, tmp_path: Path) -> None:
    assert read(f"{flores_plus}:default:devtest") == read(f"{flores_plus}::devtest")
    assert list(read(str(tmp_path / "dev" / "zho_Hans.jsonl"))) == ["zho_Hans"]


def test_only_the_languages_that_are_asked_for_are_loaded(flores_plus: str, tmp_path: Path) -> None:
    (tmp_path / "devtest" / "zho_Hans.jsonl").write_text("not json", encoding="utf-8")
    corpus = open_corpus(f"{flores_plus}::devtest").only(["eng_Latn"])
    assert [text.id for lang in corpus.languages for text in corpus.read(lang)] == ["0", "1", "2"]
    with pytest.raises(MoetraceError, match="cannot be loaded"):
        list(open_corpus(f"{flores_plus}::devtest").read("zho_Hans"))


def test_a_config_or_split_that_is_not_there_is_answered_with_the_nearest(flores_plus: str) -> None:
    with pytest.raises(UnknownNameError, match="no config 'eng-Latn'; did you mean eng_Latn"):
        open_corpus(f"{flores_plus}:eng-Latn:dev")
    with pytest.raises(UnknownNameError, match="eng_Latn has no split 'devtset'; did you mean devtest"):
        list(open_corpus(f"{flores_plus}::devtset").read("eng_Latn"))
    with pytest.raises(MoetraceError, match=r"write hf:<dataset>\[:config\[:split\]\]"):
        open_corpus(f"{flores_plus}:default:dev:1")


def test_belebele_joins_passage_and_question_and_names_a_text_by_link_and_question(belebele: str) -> None:
    made = read(belebele, text_template="{flores_passage} {question}")
    assert list(made) == sorted(LANGUAGES)
    assert made["eng_Latn"] == {
        f"https://en.wikibooks.org/wiki/{p}#{q}": f"English passage {p}. English question {q}?"
        for p in (1, 2)
        for q in (1, 2)
    }
    assert made["swh_Latn"].keys() == made["eng_Latn"].keys()
    other = read(belebele, text_template="{question}", id_template="{{{question_number}}} {link}")
    assert "{1} https://en.wikibooks.org/wiki/1" in other["zho_Hans"]


def test_belebele_without_a_template_says_which_columns_there_are(belebele: str) -> None:
    with pytest.raises(
        MoetraceError, match=r"has no 'text' \(it has link, question_number, flores_passage.*--text-temp"
    ):
        read(belebele)


def test_a_folder_of_belebele_files_reads_as_the_dataset_does(belebele: str, tmp_path: Path) -> None:
    template = "{flores_passage} {question}"
    assert read(str(tmp_path / "data"), text_template=template) == read(belebele, text_template=template)


def test_the_languages_of_wide_flores_are_in_its_sentence_columns(tmp_path: Path) -> None:
    rows = [
        {
            "id": n,
            "URL": "https://en.wikinews.org/wiki/x",
            "domain": "wikinews",
            "topic": "health",
            "has_image": 1,
            "has_hyperlink": 0,
            **{f"sentence_{lang}": f"{name} {n}" for lang, name in LANGUAGES.items()},
        }
        for n in (1, 2)
    ]
    write(tmp_path / "all" / "dev.jsonl", rows)
    for lang, name in LANGUAGES.items():
        write(tmp_path / lang / "dev.jsonl", [{"id": 1, "sentence": name}])
    files = {config: {"dev": f"{config}/dev.jsonl"} for config in ("all", *LANGUAGES)}
    pair = {"eng_Latn-swh_Latn": {"dev": "all/dev.jsonl"}}
    spec = dataset(tmp_path, {**files, **pair})
    assert read(f"{spec}:all:dev") == {
        lang: {str(n): f"{name} {n}" for n in (1, 2)} for lang, name in LANGUAGES.items()
    }
    assert read(f"{spec}:eng_Latn-swh_Latn") == read(f"{spec}:all:dev")
    assert read(spec) == {lang: {"1": name} for lang, name in LANGUAGES.items()}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{passage}", r"no column 'passage' for '\{passage\}' \(it has link, .*flores_passage, question,"),
        ("{question", r"--text-template '\{question': expected '\}' before end of string"),
        ("question}", r"--text-template 'question\}': Single '\}'"),
        ("{}", "only a column's name may stand in braces"),
        ("{question!r}", "only a column's name may stand in braces"),
        ("{question:>9}", "only a column's name may stand in braces"),
        ("the question", "names no column"),
    ],
)
def test_a_template_that_cannot_be_filled_is_one_clear_line(belebele: str, template: str, message: str) -> None:
    with pytest.raises(MoetraceError, match=message) as caught:
        read(belebele, text_template=template)
    assert "\n" not in str(caught.value)


def test_an_empty_column_of_a_template_is_named_by_its_row(tmp_path: Path) -> None:
    write(tmp_path / "eng.jsonl", [{"id": 1, "a": "x", "b": "y"}, {"id": 2, "a": "x", "b": None}])
    with pytest.raises(MoetraceError, match=r"eng.jsonl: row 2: column 'b' is empty"):
        read(str(tmp_path), text_template="{a}{b}")


def test_numbers_of_a_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "eng.csv").write_text("number,question\n007,12\n", encoding="utf-8")
    assert read(str(tmp_path), text_template="{question}", id_template="{number}") == {"eng": {"007": "12"}}


def test_a_table_of_texts_without_languages_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "all.jsonl", [{"id": 1, "text": "One", "domain": "x"}])
    with pytest.raises(MoetraceError, match=r"no column says which language a text is in \(it has id, text, domain\)"):
        open_corpus(str(tmp_path / "all.jsonl"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("swa_Latn", "swh_Latn"),
        ("eng-Latn", "eng_Latn"),
        ("english", "eng_Latn"),
        ("swahili", "swh_Latn"),
        ("zho_Hant", "zho_Hans"),
    ],
)
def test_a_language_typed_wrongly_is_answered_with_the_one_meant(flores_plus: str, typed: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no language '{typed}'; did you mean {meant}"):
        open_corpus(flores_plus).only([typed])
