"""`moetrace trace`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.next_steps import say_next
from moetrace.cli.options import (
    SHARD_TOKENS,
    FiniteRange,
    corpus_selection,
    engine_options,
    prompting,
    sampling,
)
from moetrace.cli.set_aside import exit_code
from moetrace.cli.terminal import printable, say

if TYPE_CHECKING:
    from collections.abc import Callable

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
@click.option(
    "--writers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads that write shards.  [default: the cores beside the engine's, at most 4; all where it pauses]",
)
@click.option(
    "--engine",
    "engine_kind",
    type=click.Choice(["vllm", "synthetic"]),
    default="vllm",
    show_default=True,
    help="synthetic makes routing up, without weights: to size a job. MODEL may be a shape then, such as 48x128x8.",
)
@click.option(
    "--rate",
    type=FiniteRange(min=0, min_open=True),
    metavar="N",
    help="Tokens a second of an engine: at most, with --engine synthetic; that it reads, with --dry-run.",
)
@click.option(
    "--workers",
    "worker_count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Trace with N processes, each with an engine of its own (needs Ray).",
)
@click.option(
    "--cluster",
    metavar="ray[://ADDRESS]",
    help="Let the workers run on a Ray cluster: the one this machine is part of, or one at an address.",
)
@click.option("--worker-cpus", type=FiniteRange(min=0), metavar="N", help="Cores of each worker.")
@click.option("--worker-gpus", type=FiniteRange(min=0), metavar="N", help="GPUs of each worker.")
@click.option("--worker-memory", type=FiniteRange(min=0, min_open=True), metavar="GIB", help="Memory of each worker.")
@click.option("--dry-run", is_flag=True, help="Say what the job takes (bytes, files, hours) and do nothing.")
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
    writers: int | None,
    engine_kind: str,
    rate: float | None,
    worker_count: int | None,
    cluster: str | None,
    worker_cpus: float | None,
    worker_gpus: float | None,
    worker_memory: float | None,
    dry_run: bool,
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
    if rate is not None and engine_kind != "synthetic" and not dry_run:
        raise click.UsageError("--rate is of --engine synthetic and --dry-run; a model runs as fast as it can")
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
        writers=writers,
        engine=EngineSettings(
            **engine,
            pipeline_parallel_size=pipeline_parallel_size,
            expert_parallel=expert_parallel,
            self_check=not no_self_check,
            prefix_caching=prefix_caching,
            profiles=not no_profiles,
            synthetic=engine_kind == "synthetic",
            rate=rate,
        ),
    )
    if dry_run:
        from moetrace.cli.dry_run import sizing_lines
        from moetrace.tracer.runs.sizing import size_trace

        with TraceBar() as progress:
            sizing = size_trace(
                named_model(model),
                named_corpus(corpus),
                revision=revision,
                settings=settings,
                workers=worker_count or 1,
                progress=progress,
            )
        for line in sizing_lines(sizing):
            click.echo(printable(line))
        return 0
    how: Callable[..., TraceResult] = run_trace
    if worker_count is not None or cluster is not None:
        from moetrace.tracer.runs.cluster import trace_with_workers
        from moetrace.tracer.runs.workers import Workers

        workers = Workers(worker_count, cluster, worker_cpus, worker_gpus, worker_memory)
        how = partial(trace_with_workers, workers=workers)
    elif (worker_cpus, worker_gpus, worker_memory) != (None, None, None):
        raise click.UsageError("--worker-cpus, --worker-gpus and --worker-memory are of --workers or --cluster")
    with TraceBar() as progress:
        result = how(
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
    say(
        f"run {result.run} in {printable(store)}: {result.written_shards} shards, {result.written_tokens:,} tokens "
        f"in {result.seconds:.0f} s{skipped}{aside}"
    )
    code = exit_code(result, store)
    say_next(store, result.run)
    return code
