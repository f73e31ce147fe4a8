"""Letting a model write under interventions, one after the other in one engine, and reading what it wrote.

What is written under one intervention is a run of a store, as any trace is: a steered run can be compared with another
by the same SQL, and a job that was killed goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moetrace.store.read.reader import Store
from moetrace.tracer.runs.engines import SharedEngine
from moetrace.tracer.runs.prepare import default_run
from moetrace.tracer.runs.trace import trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from moetrace.store.format.plan_record import FailedText
    from moetrace.tracer.runs.progress import TraceProgress
    from moetrace.tracer.runs.settings import TraceSettings
    from moetrace.tracer.steering.choice import SteeredLanguages


@dataclass(frozen=True)
class Answer:
    """What a model wrote after a text: `intervention` is the name of what it was under, None where nothing was done.

    - text: None where the model could not be run on it, and `error` says why
    - tokens: how many it wrote; run: of the store that the routing is in
    """

    id: str
    lang: str
    intervention: str | None
    text: str | None
    tokens: int
    run: str
    error: str | None = None


def steer(
    model: str,
    corpus: str,
    store: str | Path,
    regimes: Mapping[str, SteeredLanguages],
    *,
    run: str | None = None,
    revision: str | None = None,
    settings: TraceSettings,
    progress: TraceProgress | None = None,
) -> Iterator[Answer]:
    """Yield what a model writes after each text of a corpus, regime after regime, by language and text.

    regimes: name -> the interventions of each language; each is traced into run `RUN-NAME` of the store, and shards
    that are there are not run again. Raises as `trace` does, also for an intervention that is of another model.
    """
    base = run or default_run(model, corpus)
    engine = SharedEngine()
    try:
        for name, languages in regimes.items():
            result = trace(
                model,
                corpus,
                store,
                run=f"{base}-{name}",
                revision=revision,
                settings=replace(settings, steering=languages),
                progress=progress,
                engine_of=engine,
            )
            yield from _answers(store, result.run, languages)
    finally:
        engine.close()


def _answers(store: str | Path, run: str, languages: SteeredLanguages) -> Iterator[Answer]:
    opened = Store(store)
    failed: dict[str, list[FailedText]] = {}
    for record in opened.set_aside():
        if record.run == run:
            failed.setdefault(record.lang, []).extend(text for text in record.texts if text.kind == "failed")
    for lang in sorted({*opened.languages(run), *failed}):
        named = languages.of(lang)
        name = None if named is None else named.name
        rows = opened.dataset("sequences", run, [lang]).to_table(columns=["seq", "text_id", "text", "generated"])
        answers = {
            row["seq"]: Answer(row["text_id"], lang, name, row["text"] or "", row["generated"], run)
            for row in rows.to_pylist()
        }
        answers |= {
            text.seq: Answer(text.text_id, lang, name, None, 0, run, text.reason) for text in failed.get(lang, ())
        }
        yield from (answers[seq] for seq in sorted(answers))
