"""Every form a corpus may have reads alike, and a bad corpus is refused by one line that names the place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import MoetraceError, UnknownNameError
from moetrace.tracer.corpus.corpus import open_corpus

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = {"eng_Latn": {"a": "One, two.", "b": "Three"}, "swh_Latn": {"a": "Moja, mbili.", "b": "Tatu"}}


def jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read(spec: str) -> dict[str, dict[str, str]]:
    corpus = open_corpus(spec)
    return {lang: {text.id: text.text for text in corpus.read(lang)} for lang in corpus.languages}


def folder(tmp_path: Path, form: str) -> str:
    import polars as pl

    for lang, texts in TEXTS.items():
        frame = pl.DataFrame({"id": list(texts), "text": list(texts.values())})
        if form == "jsonl":
            jsonl(tmp_path / f"{lang}.jsonl", frame.to_dicts())
        elif form == "csv":
            frame.write_csv(tmp_path / f"{lang}.csv")
        elif form == "parquet":
            frame.write_parquet(tmp_path / f"{lang}.parquet")
    return str(tmp_path)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_folder_with_a_file_per_language(tmp_path: Path, form: str) -> None:
    assert read(folder(tmp_path, form)) == TEXTS


def test_a_folder_of_plain_text_numbers_its_lines_from_one(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.txt").write_text("One\nTwo\n", encoding="utf-8")
    assert read(str(tmp_path)) == {"eng_Latn": {"1": "One", "2": "Two"}}


def test_a_long_table(tmp_path: Path) -> None:
    rows = [{"lang": lang, "id": i, "text": text} for lang, texts in TEXTS.items() for i, text in texts.items()]
    jsonl(tmp_path / "all.jsonl", rows)
    assert read(str(tmp_path / "all.jsonl")) == TEXTS


def test_a_wide_table_where_a_text_is_missing(tmp_path: Path) -> None:
    jsonl(tmp_path / "wide.jsonl", [{"id": "a", "eng": "One", "swh": "Moja"}, {"id": "b", "eng": "Two", "swh": None}])
    assert read(str(tmp_path / "wide.jsonl")) == {"eng": {"a": "One", "b": "Two"}, "swh": {"a": "Moja"}}


def test_a_dataset_through_the_datasets_library(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"lang": "eng", "id": 7, "text": "One"}])
    jsonl(tmp_path / "test.jsonl", [{"lang": "eng", "id": 8, "text": "Two"}])
    assert read(f"hf:{tmp_path}:default:test") == {"eng": {"8": "Two"}}
    with pytest.raises(UnknownNameError, match="no split 'tset'; did you mean test"):
        read(f"hf:{tmp_path}:default:tset")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "id 'a' stands twice in eng_Latn"),
        ([{"id": "a", "text": "x"}, {"id": "b", "text": " "}], "text 'b' of eng_Latn is empty"),
        ([{"id": "a", "body": "x"}], "row 1 has no 'text' \\(it has id, body\\)"),
        ([], "eng_Latn has no texts"),
    ],
)
def test_bad_texts_are_named(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    jsonl(tmp_path / "eng_Latn.jsonl", rows)
    with pytest.raises(MoetraceError, match=message):
        read(str(tmp_path))


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(MoetraceError, match=r"eng_Latn.txt: line 2 is not UTF-8"):
        read(str(tmp_path))


def test_broken_json_is_named_by_file(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": \n', encoding="utf-8")
    with pytest.raises(MoetraceError, match=r"eng_Latn.jsonl: cannot be read as json"):
        read(str(tmp_path))


@pytest.mark.parametrize("name", ["a b.jsonl", "..x.jsonl", "sp%.txt"])
def test_a_language_code_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x", encoding="utf-8")
    with pytest.raises(MoetraceError, match=r"language code|no language files"):
        read(str(tmp_path))


def test_two_files_for_one_language_are_refused(tmp_path: Path) -> None:
    (tmp_path / "eng.txt").write_text("x", encoding="utf-8")
    (tmp_path / "eng.csv").write_text("id,text\n1,x\n", encoding="utf-8")
    with pytest.raises(MoetraceError, match="two files for language eng"):
        open_corpus(str(tmp_path))


def test_an_unknown_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MoetraceError, match="no such folder or file"):
        open_corpus(str(tmp_path / "nowhere"))
    with pytest.raises(MoetraceError, match="no language files"):
        open_corpus(str(tmp_path))


def test_an_unknown_language_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no language 'swa_Latn'; did you mean swh_Latn"):
        open_corpus(folder(tmp_path, "jsonl")).only(["swa_Latn"])


def test_reading_a_file_asks_nothing_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.txt").write_text("a\nb\n")
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise SystemExit('the network was asked')\n"
        "socket.getaddrinfo = socket.create_connection = refuse\n"
        "from moetrace.tracer.corpus.corpus import open_corpus\n"
        "print(len(list(open_corpus(sys.argv[1]).read('eng_Latn'))))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_UPDATE_DOWNLOAD_COUNTS"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
