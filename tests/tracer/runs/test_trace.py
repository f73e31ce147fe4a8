"""A trace as a whole: what it leaves behind where it fails, and what it removes when it is whole."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.plan import tokenising
from moetrace.tracer.runs.settings import TraceSettings
from moetrace.tracer.runs.trace import trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moetrace.tracer.engine.engine import TracedEngine


@contextmanager
def no_engine(*_: object) -> Iterator[TracedEngine]:
    raise MoetraceError("no engine today")
    yield


@pytest.mark.engine
def test_tokens_of_a_large_corpus_are_kept_until_its_trace_is_whole(
    engine: TracedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOETRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokenising, "PATIENCE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    settings = TraceSettings(languages=("eng_Latn", "swh_Latn"), limit=4, engine=engine.settings)
    arguments = (str(MODEL), str(CORPUS), tmp_path / "store")
    with pytest.raises(MoetraceError, match="no engine today"):
        trace(*arguments, settings=settings, engine_of=no_engine)
    kept = {file: file.stat().st_ino for file in (tmp_path / "cache" / "plans").iterdir()}
    assert len(kept) == 2
    with pytest.raises(MoetraceError, match="no engine today"):
        trace(*arguments, settings=settings, engine_of=no_engine)
    assert {file: file.stat().st_ino for file in kept} == kept, "used, not made again"
    done = trace(*arguments, settings=settings, engine_of=lambda *_: nullcontext(engine))
    assert done.written_shards == 2
    assert list((tmp_path / "cache" / "plans").iterdir()) == []
