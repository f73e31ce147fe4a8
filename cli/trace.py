"""`moetrace trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.options import (
    SHARD_TOKENS,
    FiniteRange,
    corpus_selection,
    engine_options,
    prompting,
    sampling,
)
from moetrace.cli.terminal import printable

if TYPE_CHECKING:
    from moetrace.tracer.plan.prompts import PromptSettings
    from moetrace.tracer.runs.trace import TraceResult


@click.command(short_help="Trace a corpus through a model into a store.")
@click.argument("model")
@click.option(
    "--corpus", required=True, metavar="SPEC", help="Folder with a file per language, a table, or hf:<dataset>."
)
@click.option("--store", required=True, metavar="DIR|URL", help="The store, such as s3://bucket/prefix; made if new.")
@click.option("--run", metavar="NAME", help="Name of the run in the store.  [default: from model and corpus]")
@click.option("--pivot", metavar="L", help="Language to compare with.  [default: English]")
@corpus_selection
@SHARD_TOKENS
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "error"]),
    default="truncate",
    show_default=True,
    help="What to do with a text longer than the model's window.",
)
@click.option(
    "--weight-precision",
    type=click.Choice(["auto", "bf16", "f16", "f32"]),
    default="auto",
    show_default=True,
    help="Grid that gate weights are rounded to; auto loses nothing of bf16 weights.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Let the model go on after each text for at most N tokens, and trace those too.",
)
@sampling
@prompting
@click.option(
    "--max-memory",
    type=FiniteRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="GIB",
    help="Memory of captured shards; the engine waits for the disk where it is full.",
)
@click.option("--pipeline-parallel-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--expert-parallel", is_flag=True, help="Spread whole experts, not slices of them, over the devices.")
@click.option("--no-self-check", is_flag=True, help="Do not replay a probe's routing at start-up; recorded in the run.")
@click.option("--prefix-caching", is_flag=True, help="Leave vLLM's prefix cache on (traced texts never read it).")
@engine_options
@click.option("--prompt-only", is_flag=True, help="Leave out of every table the tokens that the model writes itself.")
@click.option(
    "--skip-positions",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Leave out of every table the first N tokens of each text.",
)
@click.option(
    "--skip-special",
    is_flag=True,
    help="Leave out of every table the tokenizer's special tokens, such as those of chat templates.",
)
@click.option("--no-profiles", is_flag=True, help="Leave out the mean router probabilities of each text.")
@click.option("--no-routes", is_flag=True, help="Leave out the single decisions; roll-ups are kept.")
def trace(
    model: str,
    corpus: str,
    store: str,
    run: str | None,
    languages: tuple[str, ...],
    pivot: str | None,
    limit: int | None,
    text_template: str | None,
    id_template: str | None,
    sample: int | None,
    sample_seed: int,
    shard_tokens: int,
    on_long: str,
    weight_precision: str,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    prompt: PromptSettings,
    max_memory: float,
    pipeline_parallel_size: int,
    expert_parallel: bool,
    no_self_check: bool,
    prefix_caching: bool,
    engine: dict[str, Any],
    revision: str | None,
    prompt_only: bool,
    skip_positions: int,
    skip_special: bool,
    no_profiles: bool,
    no_routes: bool,
) -> int:
    """Trace a parallel corpus through MODEL (a local folder, a hub id, or `bundled`) into a store.

    Finished shards are kept whatever happens; the same command again goes on where it stopped. Texts that the model
    fails on are set aside, see `moetrace ls STORE --failed`; the exit code is then 1.

    \b
    moetrace trace bundled --corpus bundled --store my-store
    moetrace trace Qwen/Qwen3-30B-A3B --corpus flores/ --store flores-store --lang eng_Latn --lang swh_Latn
    moetrace trace Qwen/Qwen3-30B-A3B --corpus questions/ --store answers-store --chat --max-new-tokens 256
    """  # noqa: D301  click wants the escape itself
    from moetrace.cli.progress import TraceBar
    from moetrace.tracer.bundled import named_corpus, named_model
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.runs.settings import TraceSettings
    from moetrace.tracer.runs.trace import trace as run_trace

    settings = TraceSettings(
        languages=languages,
        pivot=pivot,
        limit=limit,
        sample=sample,
        sample_seed=sample_seed,
        text_template=text_template,
        id_template=id_template,
        shard_tokens=shard_tokens,
        on_long=on_long,
        weight_precision=weight_precision,
        routes=not no_routes,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        prompt=prompt,
        prompt_only=prompt_only,
        skip_positions=skip_positions,
        skip_special=skip_special,
        max_memory=int(max_memory * 2**30),
        engine=EngineSettings(
            **engine,
            pipeline_parallel_size=pipeline_parallel_size,
            expert_parallel=expert_parallel,
            self_check=not no_self_check,
            prefix_caching=prefix_caching,
            profiles=not no_profiles,
        ),
    )
    with TraceBar() as progress:
        result = run_trace(
            named_model(model),
            named_corpus(corpus),
            store,
            run=run,
            revision=revision,
            settings=settings,
            progress=progress,
        )
    skipped = f", {result.skipped_shards} were there before" if result.skipped_shards else ""
    aside = f"; {result.set_aside:,} texts of which nothing is left were set aside" if result.set_aside else ""
    click.echo(
        f"run {result.run} in {printable(store)}: {result.written_shards} shards, {result.written_tokens:,} tokens "
        f"in {result.seconds:.0f} s{skipped}{aside}",
        err=True,
    )
    if result.failed or result.failed_before:
        click.echo(_of_failed(result, store), err=True)
    return 1 if result.failed else 0


def _of_failed(result: TraceResult, store: str) -> str:
    """Return the line that says how many texts are not in the store."""
    counts = {"": result.failed, " in earlier traces": result.failed_before}
    which = ", ".join(f"{count:,}{when}" for when, count in counts.items() if count)
    return (
        f"texts that could not be traced: {which}; `moetrace ls {printable(store)} --failed` says which and why, all "
        "others are there; they are not tried again"
    )
