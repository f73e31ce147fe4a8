"""`moetrace trace --dry-run` comes near what the trace then takes, and does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.cli.main import run
from moetrace.store.read.reader import Store
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.runs.sizing import DECISION_SECONDS, size_trace
from moetrace.tracer.runs.trace import trace
from tests.support.synthetic_job import SHAPE, settings, write_corpus

if TYPE_CHECKING:
    from pathlib import Path


def test_a_dry_run_comes_near_the_job(tmp_path: Path) -> None:
    from moetrace.tracer.bundled import CORPUS
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.runs.settings import TraceSettings

    asked = TraceSettings(
        languages=("eng_Latn", "swh_Latn"), engine=EngineSettings(synthetic=True, rate=1e6), writers=1
    )
    found = size_trace("24x64x8", str(CORPUS), settings=asked, workers=2, progress=TraceProgress())
    result = trace("24x64x8", str(CORPUS), tmp_path / "store", settings=asked)
    store = Store(tmp_path / "store")
    assert found.tokens == result.written_tokens
    assert found.decisions == found.tokens * 24 * 8
    files = [file for commit in store.commits for file in commit.files]
    assert found.files == len(files) + result.written_shards
    assert sum(file.bytes for file in files) == pytest.approx(sum(found.store_bytes["bf16"].values()), rel=0.35)
    assert found.engine_seconds == pytest.approx(found.tokens / 1e6)
    assert found.writing_seconds == pytest.approx(found.decisions * DECISION_SECONDS)
    assert found.seconds == pytest.approx(max(found.engine_seconds or 0, found.writing_seconds) / 2)


def test_tables_that_are_left_out_and_texts_that_go_on_are_counted(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "texts", texts=10))
    plain = size_trace(SHAPE, corpus, settings=settings(), progress=TraceProgress())
    few = size_trace(SHAPE, corpus, settings=settings(routes=False), progress=TraceProgress())
    more = size_trace(SHAPE, corpus, settings=settings(max_new_tokens=4), progress=TraceProgress())
    assert plain.rate is None
    assert plain.seconds is None
    assert few.files == plain.files - plain.summary.shards
    assert all("routes" not in sizes for sizes in few.store_bytes.values())
    assert more.tokens == plain.tokens + 4 * plain.summary.texts


def test_the_command_prints_it_and_makes_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, store = str(write_corpus(tmp_path / "texts", texts=10)), tmp_path / "store"
    line = ["trace", "48x128x8", "--engine", "synthetic", "--corpus", corpus, "--store", str(store), "--dry-run"]
    assert run([*line, "--rate", "50000", "--workers", "8", "--writers", "1"]) == 0
    said = capsys.readouterr().out
    assert "8 engines at 50,000 tokens/s each (as given by --rate)" in said
    assert "1.21 cores beside each engine, more than --writers 1 can do" in said
    assert not store.exists()
    assert run(line) == 0
    assert "say with --rate" in capsys.readouterr().out
    assert run(["trace", "bundled", "--corpus", corpus, "--store", str(store), "--rate", "5"]) == 2
