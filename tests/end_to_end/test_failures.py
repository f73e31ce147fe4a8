"""A text that makes vLLM raise, as a person meets it: all else is traced, and is what it is without that text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.format import layout
from moetrace.store.intervention import intervention_text
from moetrace.store.verify.verify import verify
from moetrace.tracer.bundled import MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.warm import WarmProcess

pytestmark = pytest.mark.engine

SEQ = 4  # of the bad text
CORPUS = ("bundled", "--corpus", "bundled", "--lang", "eng_Latn", "--lang", "swh_Latn", "--limit", 12)
SETTINGS = ("--shard-tokens", 200, "--dtype", "float32", "--weight-precision", "f32")


def test_a_text_that_the_engine_fails_on_costs_nothing_but_itself(tmp_path: Path, warm: WarmProcess) -> None:
    store = tmp_path / "store"
    arguments = ("trace", *CORPUS, *SETTINGS, "--store", store)
    (whole,) = warm.run_all("moetrace.cli.main", [(*arguments, "--run", "whole")])
    assert whole.status == 0, whole.stderr
    with connect(store) as db:
        prompt = [
            token
            for (token,) in db.sql(
                f"select token_id from tokens where lang = 'eng_Latn' and seq = {SEQ} order by position"
            ).fetchall()
        ]
        ((text_id, shard, texts),) = db.sql(f"""
            select any_value(text_id) filter (seq = {SEQ}), shard, count(*) from sequences
            where lang = 'eng_Latn' group by shard having bool_or(seq = {SEQ})
        """).fetchall()
    assert texts > 2, "the shard is not worth a bisection"

    failing = (json.dumps(prompt), *arguments, "--run", "failing")
    (run,) = warm.run_all("tests.support.failing_engine", [failing])
    assert run.status == 1, run.stderr
    assert "texts that could not be traced: 1; `moetrace ls" in run.stderr
    assert "Traceback" not in run.stderr
    again, listed = warm.run_all(
        "moetrace.cli.main", [(*arguments, "--run", "failing"), ("ls", store, "--failed", "--json")]
    )
    assert again.status == 0, again.stderr
    assert "0 shards, 0 tokens in" in again.stderr
    assert "texts that could not be traced: 1 in earlier traces" in again.stderr
    (failed,) = json.loads(listed.stdout)["failed"]
    assert failed == {
        "run": "failing",
        "lang": "eng_Latn",
        "shard": shard,
        "seq": SEQ,
        "text_id": text_id,
        "kind": "failed",
        "reason": "could not be traced: CUDA error: an illegal memory access was encountered",
    }

    verdict = verify(store)
    assert verdict.problems == []
    assert all(progress.there == progress.planned for progress in verdict.runs)
    assert list((store / layout.ATTEMPTS).rglob("*.json")) == []
    bad = f"(lang = 'eng_Latn' and seq = {SEQ})"
    with connect(store) as db:
        for columns, table in (
            ("lang, shard, seq, text_id, tokens", "sequences"),
            ("lang, shard, seq, position, token_id", "tokens"),
            ("lang, shard, seq, position, layer, rank, expert, weight",
             "routes join tokens using (run, lang, shard, token)"),
            ("lang, shard, seq, layer, expert, probability", "profiles"),
        ):  # fmt: skip
            source = f"select {columns} from {table.replace('join tokens', 'join (from tokens)')}"
            left = f"{source} where run = 'whole' and not {bad}"
            found = f"{source} where run = 'failing'"
            assert db.sql(f"select count(*) from ({found})").fetchall()[0][0] > 0
            assert db.sql(f"({left} except {found}) union all ({found} except {left})").fetchall() == [], table


def test_a_text_that_a_steered_engine_fails_on_is_told_in_its_line(tmp_path: Path, warm: WarmProcess) -> None:
    from tokenizers import Tokenizer

    texts = ["All human beings are", "The name of the", "Everyone has the"]
    corpus, intervention = tmp_path / "corpus", tmp_path / "up.json"
    corpus.mkdir()
    (corpus / "eng_Latn.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    steps = [{"mode": "promote", "experts": [{"layer": 2, "expert": 1}]}]
    said = {"format": "moetrace-intervention", "version": 1, "name": "up", "steps": steps}
    intervention.write_text(intervention_text(said), encoding="utf-8")
    prompt = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(texts[1]).ids
    options = ("--dtype", "float32", "--max-model-len", 128, "--max-new-tokens", 4)
    arguments = ("steer", "bundled", "--intervention", intervention, "--corpus", corpus, *options)
    (run,) = warm.run_all("tests.support.failing_engine", [(json.dumps(prompt), *arguments)])
    assert run.status == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert "texts that the model could not be run on: 1; their lines say why" in run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [row["text"] is None for row in rows] == [False, True, False]
    assert rows[1] == {
        "id": "2",
        "lang": "eng_Latn",
        "intervention": "up",
        "text": None,
        "error": "could not be traced: CUDA error: an illegal memory access was encountered",
        "tokens": 0,
    }
    assert all("error" not in row for row in (rows[0], rows[2]))
