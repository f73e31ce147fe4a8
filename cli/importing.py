"""`moetrace import`."""

from __future__ import annotations

import click

from moetrace.cli.next_steps import say_next
from moetrace.cli.options import SHARD_TOKENS
from moetrace.cli.terminal import say

FORMATS = ("esft", "usage-json", "rise-stats")
LISTED = 5  # shards that a message names


@click.command("import", short_help="Read what another tool traced into a store.")
@click.argument("file_format", type=click.Choice(FORMATS), metavar="FORMAT")
@click.argument("sources", nargs=-1, required=True, metavar="LANG=PATH...")
@click.option("--store", required=True, metavar="DIR-or-URL", help="The store; made if new.")
@click.option("--run", required=True, metavar="NAME", help="Name of the run in the store.")
@click.option("--model-id", metavar="ID", help="The model that was traced.  [default: as the files say]")
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    metavar="K",
    help="Experts a token is sent to.  [default: as the files say; 6 for esft]",
)
@click.option(
    "--experts",
    type=click.IntRange(1, 65536),
    metavar="E",
    help="Experts of a layer.  [default: as the files say; 64 for esft]",
)
@SHARD_TOKENS
@click.option(
    "--weight-precision",
    type=click.Choice(["f16", "f32"]),
    default="f16",
    show_default=True,
    help="Grid that gate weights are rounded to.",
)
def import_traces(
    file_format: str,
    sources: tuple[str, ...],
    store: str,
    run: str,
    model_id: str | None,
    top_k: int | None,
    experts: int | None,
    shard_tokens: int,
    weight_precision: str,
) -> None:
    """Read what another tool traced into a run of a store: FORMAT is esft, usage-json or rise-stats.

    \b
    esft        a folder of expert_weights_<layer>.txt, or its tar archive: every decision
    usage-json  counts and sums of gate weights of each expert: roll-ups only
    rise-stats  RISE's routing_stats.json, frequencies of many languages (PATH alone: all of them): roll-ups only

    Finished shards are kept whatever happens; the same command again goes on where it stopped. Exits with 1 where
    another process has shards in hand that are not in the store yet.

    \b
    moetrace import esft eng_Latn=intent/ --store my-store --run intent --model-id deepseek-ai/DeepSeek-V2-Lite
    moetrace import usage-json en=mgsm_en.json sw=mgsm_sw.json --store my-store --run mgsm
    moetrace import rise-stats routing_stats.json --store my-store --run rise
    """  # noqa: D301  click wants the escape itself
    from moetrace.cli.progress import ImportBar
    from moetrace.store.errors import StoreError
    from moetrace.store.imports import FORMATS as READERS
    from moetrace.store.imports import ImportRequest, Source

    request = ImportRequest(
        tuple(Source.parse(text) for text in sources),
        run,
        model_id=model_id,
        top_k=top_k,
        experts=experts,
        shard_tokens=shard_tokens,
        weight_precision=weight_precision,
    )
    with ImportBar() as progress:
        result = READERS[file_format](store, request, progress)
    tokens = f", {result.written_tokens:,} tokens" if result.written_tokens else ""
    skipped = f", {result.skipped_shards} there before" if result.skipped_shards else ""
    say(f"run {run} in {store}: {result.languages} languages, {result.written_shards} shards{tokens} written{skipped}")
    if result.missing:
        listed = ", ".join(result.missing[:LISTED]) + (", ..." if len(result.missing) > LISTED else "")
        raise StoreError(
            f"run {run} in {store}: {len(result.missing)} shards are missing, which another process has in hand "
            f"({listed}); import again once it has ended"
        )
    say_next(store, run)
