"""`moetrace steer` as a person types it: what it prints, what it keeps, how it refuses."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run
from moetrace.store.intervention import intervention_text
from moetrace.store.read.reader import Store
from tests.support.commands import failure
from tests.support.masks import mask_of

if TYPE_CHECKING:
    from pathlib import Path

COMMON = ("--dtype", "float32", "--max-model-len", "256", "--max-new-tokens", "6")


def written(folder: Path, name: str, mode: str = "promote", experts: tuple[int, ...] = (1, 5), **more: Any) -> Path:
    cells = [{"layer": layer, "expert": expert} for layer in (2, 3, 4) for expert in experts]
    steps = [{"mode": mode, "experts": cells}]
    value = {"format": "moetrace-intervention", "version": 1, "name": name, "steps": steps, **more}
    file = folder / f"{name}.json"
    file.write_text(intervention_text(value), encoding="utf-8")
    return file


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for lang, texts in {
        "eng_Latn": ("All human beings are", "The name of the"),
        "deu_Latn": ("Alle Menschen sind", "Der Name des"),
    }.items():
        rows = (json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts))
        (folder / f"{lang}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert run(["steer", "bundled", *map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.engine
def test_every_text_is_answered_under_every_intervention_and_traced(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (written(tmp_path, "up"), written(tmp_path, "down", "suppress", scope="generated"))
    options = [part for file in files for part in ("--intervention", file)]
    store = tmp_path / "store"
    arguments = ("--corpus", corpus, "--trace", store, "--run", "r", "--baseline", *options, *COMMON)
    rows = said(capsys, *arguments)
    assert [(row["intervention"], row["lang"], row["id"]) for row in rows] == [
        (name, lang, number)
        for name in (None, "up", "down")
        for lang in ("deu_Latn", "eng_Latn")
        for number in ("0", "1")
    ]
    assert all(0 <= row["tokens"] <= 6 for row in rows)
    texts = {name: [row["text"] for row in rows if row["intervention"] == name] for name in (None, "up", "down")}
    assert texts["up"] != texts[None]
    assert said(capsys, *arguments) == rows  # nothing is run again

    opened = connect(store)
    shares = """
        select run, generated, avg(promoted)::double as share from (
            select run, generated, lang, shard, token, layer, max((expert in (1, 5))::int) as promoted
            from routes join tokens using (run, lang, shard, token) where layer in (2, 3, 4) group by all
        ) group by all order by run, generated
    """
    found = {(run, generated): share for run, generated, share in opened.sql(shares).fetchall()}
    assert (found["r-up", False], found["r-up", True]) == (1.0, 1.0)
    assert found["r-down", True] == 0.0
    assert found["r-down", False] == found["r-none", False] > 0.0
    record = Store(store).run("r-up")
    assert record.settings["steering"][""]["name"] == "up"
    assert run(["verify", str(store)]) == 0
    (tmp_path / "up.json").write_text((tmp_path / "down.json").read_text().replace('"down"', '"up"'))
    changed = ("--corpus", corpus, "--trace", store, "--run", "r", "--intervention", files[0], *COMMON)
    assert "steering" in failure(capsys, "steer", "bundled", *changed)  # another intervention of that name


@pytest.mark.engine
def test_each_language_has_its_own_and_standard_input_is_a_corpus(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"deu_Latn={written(tmp_path, 'up')}"
    rows = said(capsys, "--corpus", corpus, "--by-language", own, *COMMON)
    assert {(row["lang"], row["intervention"]) for row in rows} == {("deu_Latn", "up"), ("eng_Latn", None)}
    mask = tmp_path / "mask.json"
    mask.write_text(json.dumps(mask_of([(3, 1), (4, 2)], moe_layers=range(8), num_experts=32, top_k=4)))
    monkeypatch.setattr("sys.stdin", io.StringIO("Good morning.\nWhere is it?\n"))
    out = tmp_path / "out.jsonl"
    arguments = ("--intervention", mask, "--mode", "soft", "--lambda", "0.5", "--corpus", "-", "-o", out)
    assert said(capsys, *arguments, *COMMON) == []
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["lang"], row["intervention"]) for row in rows] == [("und", "mask")] * 2


def test_bad_input_is_one_line(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm")
    up = written(tmp_path, "up")

    def refused(*arguments: object) -> str:
        return failure(capsys, "steer", "bundled", "--corpus", corpus, *arguments)

    many = written(tmp_path, "many", experts=(0, 1, 2, 3, 4))
    assert "layer 2: 5 experts are promoted, the model chooses 4" in refused("--intervention", many)
    assert "no expert of it is in layers 7" in refused("--intervention", up, "--layers", "7")
    assert "two interventions are called up" in refused("--intervention", up, "--intervention", up)
    assert "--by-language fra_Latn: the corpus has deu_Latn, eng_Latn" in refused("--by-language", f"fra_Latn={up}")
    assert "an intervention says itself what is done" in refused("--intervention", up, "--mode", "soft")
    assert "cannot be read as an intervention" in refused("--intervention", tmp_path / "none.json")
    mask = tmp_path / "mask.json"
    mask.write_text(json.dumps(mask_of([(3, 1)], moe_layers=range(4), num_experts=32, top_k=4)))
    assert "give a mode" in refused("--intervention", mask)
    assert "MoE layers are 0-3, this model's are 0-7" in refused("--intervention", mask, "--mode", "promote")
    for arguments, words in (
        ((), "say what is done"),
        (("--by-language", "x"), "say a language and a file"),
        (("--intervention", up, "--layers", "a"), "say numbers of layers"),
        (("--by-language", f"a={up}", "--by-language", f"a={up}"), "a has two interventions"),
    ):
        assert run(["steer", "bundled", "--corpus", str(corpus), *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.engine
def test_a_model_in_bfloat16_is_steered_and_traced(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As people type it: the weights of its own routing lie on the bf16 grid, those that are steered on none."""
    file, store = written(tmp_path, "up"), tmp_path / "store"
    length = ("--max-model-len", "256", "--max-new-tokens", "6")
    rows = said(
        capsys, "--corpus", corpus, "--intervention", file, "--baseline", "--trace", store, "--run", "r", *length
    )
    assert {row["intervention"] for row in rows} == {None, "up"}
    assert Store(store).run("r-up").settings["weight_precision"] == "f16"
    opened = connect(store)
    shares = """
        select min(promoted)::int from (
            select max((expert in (1, 5))::int) as promoted from routes
            where run = 'r-up' and layer in (2, 3, 4) group by lang, shard, token, layer
        )
    """
    assert opened.sql(shares).fetchall() == [(1,)]
