"""`moetrace steer`."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.interventions import SaidInterventions, interventions
from moetrace.cli.options import (
    SHARD_TOKENS,
    corpus_selection,
    engine_options,
    output,
    prompting,
    sampling,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moetrace.tracer.plan.prompts import PromptSettings
    from moetrace.tracer.runs.steer import Answer

STDIN = "-"
BASELINE = "none"


@click.command(short_help="Let a model write while experts are promoted, suppressed or shifted.")
@click.argument("model")
@interventions
@click.option("--baseline", is_flag=True, help="Let the model write without an intervention first.")
@click.option("--corpus", required=True, metavar="SPEC|-", help="As of trace; - is a text a line on standard input.")
@click.option(
    "--trace", "store", metavar="DIR|URL", help="Keep the routing in this store, a run for each intervention."
)
@click.option("--run", metavar="NAME", help="What the runs' names begin with.  [default: from model and corpus]")
@output("JSONL, a text a line.  [default: standard output]")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, metavar="N")
@sampling
@prompting
@corpus_selection
@SHARD_TOKENS
@engine_options
def steer(
    model: str,
    said: SaidInterventions,
    baseline: bool,
    corpus: str,
    store: str | None,
    run: str | None,
    output: Path | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    prompt: PromptSettings,
    languages: tuple[str, ...],
    limit: int | None,
    text_template: str | None,
    id_template: str | None,
    sample: int | None,
    sample_seed: int,
    shard_tokens: int,
    engine: dict[str, Any],
    revision: str | None,
) -> int:
    """Let MODEL (a local folder, a hub id, or `bundled`) write after each text of a corpus under interventions.

    Prints a JSON object a line: id, lang, intervention, text, tokens. With --trace the routing, as it was steered, is
    kept as well. Of a text that the engine fails on, text is null and error says why; the exit code is then 1.

    \b
    moetrace steer bundled --intervention x.json --corpus bundled --lang eng_Latn --baseline
    moetrace export rise my-store --target swh_Latn --budget 128 -o mask.json
    echo "Habari ya asubuhi" | moetrace steer MODEL --intervention mask.json --mode soft --lambda 0.5 --corpus -
    """  # noqa: D301  click wants the escape itself
    from moetrace.cli.progress import TraceBar
    from moetrace.tracer.bundled import named_corpus, named_model
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.runs.settings import TraceSettings
    from moetrace.tracer.runs.steer import steer as run_steer
    from moetrace.tracer.steering.choice import SteeredLanguages

    regimes = said.regimes()
    if not regimes:
        raise click.UsageError("say what is done: --intervention FILE, or --by-language L=FILE")
    if baseline:
        regimes = {BASELINE: SteeredLanguages(), **regimes}
    settings = TraceSettings(
        languages=languages,
        limit=limit,
        sample=sample,
        sample_seed=sample_seed,
        text_template=text_template,
        id_template=id_template,
        shard_tokens=shard_tokens,
        routes=store is not None,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        prompt=prompt,
        engine=EngineSettings(**engine, profiles=store is not None),
    )
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moetrace-")))
        source = _read_standard_input(scratch, languages) if corpus == STDIN else named_corpus(corpus)
        progress = stack.enter_context(TraceBar())
        answers = run_steer(
            named_model(model),
            source,
            store or scratch / "store",
            regimes,
            run=run or ("stdin" if corpus == STDIN else None),
            revision=revision,
            settings=settings,
            progress=progress,
        )
        failed = _write(answers, output)
    if failed:
        click.echo(
            f"texts that the model could not be run on: {failed:,}; their lines say why, all others are there", err=True
        )
    return 1 if failed else 0


def _read_standard_input(folder: Path, languages: tuple[str, ...]) -> str:
    """Write standard input as a corpus of one language, a text a line, and return its folder."""
    if len(languages) > 1:
        raise click.UsageError("--corpus -: standard input is of one language; say one --lang at most")
    texts = [line.rstrip("\r\n") for line in sys.stdin]
    if not any(text.strip() for text in texts):
        raise click.UsageError("--corpus -: nothing was on standard input")
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / f"{languages[0] if languages else 'und'}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(corpus)


def _write(answers: Iterable[Answer], output: Path | None) -> int:
    """Print a JSON object a line, or write them to a file, whole or not at all; return how many are no answers."""
    import json

    from moetrace.store.output import write_text

    failed = 0

    def lines() -> Iterable[str]:
        nonlocal failed
        for one in answers:
            fields = {"id": one.id, "lang": one.lang, "intervention": one.intervention, "text": one.text}
            if one.error is not None:
                failed += 1
                fields["error"] = one.error
            yield json.dumps({**fields, "tokens": one.tokens}, ensure_ascii=False)

    if output is None:
        for line in lines():
            click.echo(line)
    else:
        write_text(output, "".join(f"{line}\n" for line in lines()))
    return failed
