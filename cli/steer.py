"""`moetrace steer`."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moetrace.cli.options import FINITE, SHARD_TOKENS, FiniteRange, corpus_selection, output, sampling_and_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from moetrace.store.intervention import Intervention
    from moetrace.tracer.runs.steer import Answer
    from moetrace.tracer.steering.choice import SteeredLanguages

STDIN = "-"
BASELINE = "none"


@click.command(short_help="Let a model write while experts are promoted, suppressed or shifted.")
@click.argument("model")
@click.option(
    "--intervention",
    "files",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="An intervention, or a mask with --mode; may be repeated: one after the other.",
)
@click.option(
    "--by-language", "by_language", multiple=True, metavar="L=FILE", help="The intervention of one language; repeat."
)
@click.option("--baseline", is_flag=True, help="Let the model write without an intervention first.")
@click.option(
    "--mode", type=click.Choice(["promote", "suppress", "soft", "scale"]), help="What is done to a mask's experts."
)
@click.option("--lambda", "strength", type=FINITE, metavar="F", help="Strength of a mask's soft or scale.")
@click.option(
    "--scope", type=click.Choice(["all", "prompt", "generated"]), help="Which tokens.  [default: the file's, or all]"
)
@click.option("--layers", metavar="LAYERS", help="Only experts of these layers, as 4-9 or 4,5,8.")
@click.option("--corpus", required=True, metavar="SPEC|-", help="As of trace; - is a text a line on standard input.")
@click.option(
    "--trace", "store", metavar="DIR|URL", help="Keep the routing in this store, a run for each intervention."
)
@click.option("--run", metavar="NAME", help="What the runs' names begin with.  [default: from model and corpus]")
@output("JSONL, a text a line.  [default: standard output]")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, metavar="N")
@sampling_and_prompt
@corpus_selection
@SHARD_TOKENS
@click.option(
    "--max-model-len", type=click.IntRange(min=2), metavar="N", help="Window in tokens.  [default: the model's]"
)
@click.option("--max-num-batched-tokens", type=click.IntRange(min=32), default=4096, show_default=True, metavar="N")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option("--tensor-parallel-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--kv-cache-gib", type=FiniteRange(min=0, min_open=True), help="KV cache.  [default: 1 on a CPU]")
@click.option("--compile", "compiled", is_flag=True, help="Let vLLM compile the model: slow to start, faster on a GPU.")
@click.option("--revision", metavar="R", help="Revision of the model on its hub.")
def steer(
    model: str,
    files: tuple[Path, ...],
    by_language: tuple[str, ...],
    baseline: bool,
    mode: str | None,
    strength: float | None,
    scope: str | None,
    layers: str | None,
    corpus: str,
    store: str | None,
    run: str | None,
    output: Path | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    chat: bool,
    system: str | None,
    chat_template: Path | None,
    languages: tuple[str, ...],
    limit: int | None,
    text_template: str | None,
    id_template: str | None,
    sample: int | None,
    sample_seed: int,
    shard_tokens: int,
    max_model_len: int | None,
    max_num_batched_tokens: int,
    dtype: str,
    tensor_parallel_size: int,
    kv_cache_gib: float | None,
    compiled: bool,
    revision: str | None,
) -> None:
    """Let MODEL (a local folder, a hub id, or `bundled`) write after each text of a corpus under interventions.

    Prints a JSON object a line: id, lang, intervention, text, tokens. With --trace the routing, as it was steered, is
    kept as well.

    \b
    moetrace steer bundled --intervention x.json --corpus bundled --lang eng_Latn --baseline
    moetrace export rise my-store --target swh_Latn --budget 128 -o mask.json
    echo "Habari ya asubuhi" | moetrace steer MODEL --intervention mask.json --mode soft --lambda 0.5 --corpus -
    """  # noqa: D301  click wants the escape itself
    from moetrace.cli.progress import TraceBar
    from moetrace.store.intervention import read_intervention
    from moetrace.tracer.bundled import named_corpus, named_model
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.plan.prompts import PromptSettings
    from moetrace.tracer.runs.settings import TraceSettings
    from moetrace.tracer.runs.steer import steer as run_steer

    chosen = _layers(layers)

    def read(file: Path) -> Intervention:
        return read_intervention(file, mode=mode, strength=strength, scope=scope, layers=chosen)

    regimes = _regimes(read, files, by_language, baseline=baseline)
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
        prompt=PromptSettings(chat, system, chat_template.read_text(encoding="utf-8") if chat_template else None),
        engine=EngineSettings(
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_batched_tokens=max_num_batched_tokens,
            tensor_parallel_size=tensor_parallel_size,
            eager=not compiled,
            kv_cache_gib=kv_cache_gib,
            profiles=store is not None,
        ),
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
        _write(answers, output)


def _regimes(
    read: Callable[[Path], Intervention], files: tuple[Path, ...], by_language: tuple[str, ...], *, baseline: bool
) -> dict[str, SteeredLanguages]:
    """Return the interventions of each run to be made, by what its name ends with."""
    from moetrace.tracer.steering.attach import check_names
    from moetrace.tracer.steering.choice import SteeredLanguages

    named: dict[str, Intervention] = {}
    for said in by_language:
        lang, equals, file = said.partition("=")
        if not (lang and equals and file):
            raise click.UsageError(f"--by-language {said}: say a language and a file, as swh_Latn=x.json")
        if lang in named:
            raise click.UsageError(f"--by-language: {lang} has two interventions")
        named[lang] = read(Path(file))
    if not files and not named:
        raise click.UsageError("say what is done: --intervention FILE, or --by-language L=FILE")
    if named and len(files) > 1:
        raise click.UsageError("with --by-language, one --intervention at most: it is for the languages not named")
    found = [read(file) for file in files]
    check_names([one.name for one in found], None)
    regimes = {BASELINE: SteeredLanguages()} if baseline else {}
    if named:
        return {**regimes, "by-language": SteeredLanguages(found[0] if found else None, named)}
    return {**regimes, **{one.name: SteeredLanguages(one) for one in found}}


def _layers(said: str | None) -> list[int] | None:
    """Return the numbers of layers that are said as 4-9 or 4,5,8."""
    if said is None:
        return None
    found: list[int] = []
    for part in said.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()) or len(part) > 11:
            raise click.UsageError(f"--layers {said}: say numbers of layers, as 4-9 or 4,5,8")
        found += range(int(first), int(last or first) + 1)
    return found


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


def _write(answers: Iterable[Answer], output: Path | None) -> None:
    """Print a JSON object a line, or write them to a file, whole or not at all."""
    import json

    from moetrace.store.output import write_text

    def lines() -> Iterable[str]:
        for one in answers:
            fields = {"id": one.id, "lang": one.lang, "intervention": one.intervention, "text": one.text}
            yield json.dumps({**fields, "tokens": one.tokens}, ensure_ascii=False)

    if output is None:
        for line in lines():
            click.echo(line)
    else:
        write_text(output, "".join(f"{line}\n" for line in lines()))
