"""The commands as a person types them: what they print, what they write, and how they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from moetrace.analytics.database.documentation import views
from moetrace.cli.main import COMMANDS, run
from moetrace.store.read.reader import Store
from moetrace.tracer.bundled import CORPUS
from tests.support.commands import failure
from tests.support.stores import make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

ANY = ("--min-count", "0")  # in stores of a handful of tokens


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "store"
    write_world(path, make_world(1, make_record(run="one")))
    return path


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: moetrace {command}".rstrip())
    assert "NotImplemented" not in printed


def test_help_and_export_import_nothing_heavy(store: Path) -> None:
    program = f"""
import sys
from moetrace.cli.main import run
assert run(["--help"]) == 0
mask = {str(store)!r} + ".mask"
export = ["export", "rise", {str(store)!r}, "--target", "swh_Latn", "--budget", "5", *{ANY!r}, "-o", mask]
assert run(export) == 0
heavy = {{"torch", "vllm", "transformers", "datasets", "altair", "pandas", "polars", "vl_convert", "scipy"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert run(["tarce"]) == 2
    assert run(["export", "rise", str(store)]) == 2
    assert run(["trace", "bundled"]) == 2
    assert "Missing option" in capsys.readouterr().err


def test_ls_tells_what_there_is(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert run(["ls", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "one: synthetic" in printed
    total = sum(commit.tokens for commit in Store(store).commits)
    assert f"{total:,}" in next(line for line in printed.splitlines() if line.startswith("all"))


def test_ls_tells_the_same_as_json(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert run(["ls", str(store), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["store", "format_version", "runs"]
    assert document["format_version"] == Store(store).format.version
    ((found),) = document["runs"]
    assert (found["run"], found["model"]) == ("one", "synthetic")
    commits = Store(store).commits
    keys = ["lang", "shards", "planned_shards", "texts", "tokens", "bytes", "bytes_per_decision"]
    for row in found["languages"]:
        mine = [commit for commit in commits if commit.lang == row["lang"]]
        assert list(row) == keys
        assert row["shards"] == len(mine) > 0
        assert row["planned_shards"] is None  # this record has none
        assert row["texts"] == sum(commit.sequences for commit in mine)
        assert row["tokens"] == sum(commit.tokens for commit in mine)
        assert row["bytes"] == sum(file.bytes for commit in mine for file in commit.files)
        routes = sum(file.bytes for commit in mine for file in commit.files if file.table == "routes")
        assert row["bytes_per_decision"] == pytest.approx(routes / (row["tokens"] * 3 * 2))


def test_ls_knows_nothing_of_what_was_imported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = make_record(tables=("usage",), languages=["a"])
    record = replace(record, settings={**record.settings, "tokens": "nominal"})
    write_counts(tmp_path, record, {"a": np.full((3, 8), 25)}, {"a": 100})
    assert run(["ls", str(tmp_path), "--json"]) == 0
    ((row),) = json.loads(capsys.readouterr().out)["runs"][0]["languages"]
    assert (row["texts"], row["tokens"], row["bytes_per_decision"]) == (None, None, None)
    assert run(["ls", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[2:4] == ["-", "-"]


def test_sql_prints_what_python_has_no_type_for(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    query = "select now() as t, interval 1 month as i, [1, 2] as l, 1 as a, 2 as a, 'infinity'::date as d"
    assert run(["sql", str(store), query]) == 0
    table = capsys.readouterr()
    assert table.out.splitlines()[0].split() == ["t", "i", "l", "a", "a", "d"]
    assert "1 month" in table.out
    assert table.err == ""
    for file_format in ("csv", "json"):
        assert run(["sql", str(store), query, "--format", file_format]) == 0
        printed = capsys.readouterr()
        assert "a_1" in printed.out
        assert "infinity" in printed.out
        assert printed.err == "note: column 5 is 'a_1': another has its name\n"


def test_views_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["views"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in views())
    assert run(["views", "jaccard"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "jaccard(n := null, languages := null, layers := null, prompt_only := false, skip_positions := 0",
        "formula:",
        "range:",
        "source:",
        "columns:",
        "isolation",
    ):
        assert word in printed
    assert "did you mean jaccard" in failure(capsys, "views", "jacard")


def test_sql_prints_the_same_rows_in_every_format(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    query = "select lang, layer, expert, count from usage order by all"
    assert run(["sql", str(store), query, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["lang"] == "deu_Latn"
    assert run(["sql", str(store), query, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1
    assert run(["sql", str(store), query, "-o", str(tmp_path / "rows.parquet")]) == 0
    assert pl.read_parquet(tmp_path / "rows.parquet").to_dicts() == rows
    assert run(["sql", str(store), query]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["lang", "layer", "expert", "count"]
    assert len(table) == len(rows) + 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from jacard", "jacard"),
        ("selct 1", "parser: syntax error"),
        ("copy (select 1) to '{tmp}/x.csv'", "copy and export are not allowed"),
        ("select * from read_csv('/etc/passwd')", "permission"),
        ("attach '{tmp}/x.db'", "permission"),
        ("set enable_external_access = true", "configuration"),
    ],
)
def test_sql_refuses_what_is_wrong_or_reaches_outside(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path, query: str, message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert run(["sql", str(store), query.format(tmp=tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    assert list(tmp_path.iterdir()) == []


def test_export_writes_a_mask_and_the_same_bytes_every_time(store: Path, tmp_path: Path) -> None:
    texts = []
    for name in ("a.json", "b.json"):
        args = ["export", "rise", str(store), "--target", "swh_Latn", "--budget", "7", "-o", str(tmp_path / name), *ANY]
        assert run(args) == 0
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]
    mask = json.loads(texts[0])
    assert mask["format"] == "moetrace-mask"
    assert len(mask["experts"]) == 7


def test_export_in_the_format_of_rise(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert run(["export", "rise", str(store), "--target", "swh_Latn", "--budget", "7", *ANY, "--format", "rise"]) == 0
    mask = json.loads(capsys.readouterr().out)
    assert mask["method"] == "RISE"
    assert mask["target_language"] == "swh_Latn"
    assert set(mask["experts"][0]) == {"layer", "expert", "zone", "score", "specificity", "overlap"}


def test_export_refuses_with_a_reason(capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path) -> None:
    export = ("export", "rise", store, "-o", tmp_path / "mask.json", "--target")
    assert "did you mean swh_Latn" in failure(capsys, *export, "swa_Latn")
    assert "budget 999" in failure(capsys, *export, "swh_Latn", "--budget", 999)
    assert "no run 'two'" in failure(capsys, *export, "swh_Latn", "--run", "two")
    assert "no such store" in failure(capsys, "export", "rise", tmp_path / "nowhere", "--target", "swh_Latn")
    assert list(tmp_path.iterdir()) == []


def test_report_is_written(store: Path, tmp_path: Path) -> None:
    assert run(["report", str(store), "-o", str(tmp_path / "report.html")]) == 0
    assert "swh_Latn" in (tmp_path / "report.html").read_text(encoding="utf-8")


def write_model(folder: Path, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_trace_refuses_a_bad_model_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dense = write_model(tmp_path / "dense", model_type="llama", hidden_size=8, intermediate_size=8, num_hidden_layers=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    into = ("--corpus", CORPUS, "--store", tmp_path / "store")
    assert "not a Mixture-of-Experts model" in failure(capsys, "trace", dense, *into)
    assert "no config.json" in failure(capsys, "trace", empty, *into)
    assert "cannot read a model config" in failure(capsys, "trace", tmp_path / "nowhere", *into)
    assert "takes 2 to 1024 tokens" in failure(capsys, "trace", "bundled", *into, "--max-model-len", 5000)
    assert not (tmp_path / "store").exists()


def test_trace_refuses_a_bad_corpus_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    into = ("--store", tmp_path / "store")
    assert "no such folder or file" in failure(capsys, "trace", "bundled", "--corpus", tmp_path / "nowhere", *into)
    known = failure(capsys, "trace", "bundled", "--corpus", "bundled", "--lang", "eng_Lat", *into)
    assert "did you mean eng_Latn" in known
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "eng_Latn.jsonl").write_text("", encoding="utf-8")
    assert "eng_Latn has no texts" in failure(capsys, "trace", "bundled", "--corpus", texts, *into)
    (texts / "eng_Latn.txt").write_text("x", encoding="utf-8")
    assert "two files for language eng_Latn" in failure(capsys, "trace", "bundled", "--corpus", texts, *into)
    (texts / "eng_Latn.jsonl").unlink()
    (texts / "eng_Latn.txt").write_text("word " * 2000, encoding="utf-8")
    refused = failure(capsys, "trace", "bundled", "--corpus", texts, "--on-long", "error", *into)
    assert "tokens, the window is 1023" in refused
    assert not (tmp_path / "store").exists()


def test_trace_refuses_a_folder_that_is_not_a_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert "not a moetrace store" in failure(capsys, "trace", "bundled", "--corpus", "bundled", "--store", tmp_path)


def test_scores_from_a_file_are_correlated(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    languages = Store(store).languages("one")
    scores = tmp_path / "scores.csv"
    scores.write_text("lang,score\n" + "\n".join(f"{lang},{n * n}" for n, lang in enumerate(languages)))
    query = "select count(*) as layers, max(n) as n from score_correlation"
    assert run(["sql", str(store), "--scores", str(scores), query, "--format", "csv"]) == 0
    header, row = capsys.readouterr().out.split()
    assert header == "layers,n"
    assert int(row.split(",")[0]) > 0
    for content, message in (
        ("lang,score\nswahili,1\n", "has no language 'swahili'; did you mean swh_Latn"),
        ("lang,value\nswh_Latn,1\n", "scores have no column 'score'"),
        ("lang,score\nswh_Latn,good\n", "scores hold what is no finite number"),
    ):
        scores.write_text(content)
        assert message in failure(capsys, "sql", store, "--scores", scores, query)
    assert "scores are read from a .csv or a .parquet file" in failure(
        capsys, "sql", store, "--scores", tmp_path / "scores.txt", query
    )
    assert "cannot be read" in failure(capsys, "sql", store, "--scores", tmp_path / "none.csv", query)
